"""What can go wrong in the model.

ModelError
├── CheckpointError   files do not hold the model they say they hold
└── UpdateFailed      one text could not be injected
"""

from __future__ import annotations

from typing import ClassVar


class ModelError(Exception):
    """The model failed. `retriable` says whether the same call may work later."""

    retriable: ClassVar[bool] = False


class CheckpointError(ModelError):
    """The checkpoint's files and its config do not agree. The message names the tensor or the field; fetch the checkpoint again."""


class UpdateFailed(ModelError):
    """A text could not be injected: no tokens, or states that are not finite. The document goes to the dead letters."""
