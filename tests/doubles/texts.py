"""Texts that mean nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def text(seed: int, length: int = 8) -> Tensor:
    """Some tokens [T] of the tiny vocabulary, none of them a control token; the same seed gives the same ones."""
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))
