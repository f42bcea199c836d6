"""Checkpoints from the Hugging Face hub: data alone, of one commit.

A branch is whatever its owner puts there next; a commit stays what it is. The hub's client keeps what it fetched by commit, so a pinned
one is found again without the hub.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Final

from model.errors import CheckpointError

log = logging.getLogger(__name__)

WANTED: Final = ("*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt")
"""Configuration, weights, tokenizer. No code and no pickles: they are not even fetched."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def fetch(name: str, revision: str | None = None) -> Path:
    """The folder of a model on the hub.

    Args:
        name: OWNER/MODEL.
        revision: a commit's 40 digits; or a branch or a tag, of which is said which commit it is now.

    Raises:
        CheckpointError: the hub does not give it.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
    except Exception as error:  # the hub's client raises many kinds, from httpx's to its own
        raise CheckpointError(f"{name}: no such folder, and the hub did not give {revision or 'it'}: {error}") from error
    if revision is None or not _COMMIT.fullmatch(revision):
        log.warning(
            "%s: %s is commit %s now and may be another one tomorrow; pin it: model.revision: %s (--revision)",
            name,
            revision or "its main branch",
            folder.name,
            folder.name,
        )
    return folder
