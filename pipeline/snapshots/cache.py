"""Segments of remote stores, kept on this machine to be mapped: a folder for each stream, a file for each digest.

A file that is removed while it is mapped stays until whoever mapped it lets go, so whatever is pruned too early is only fetched again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

CACHE_VARIABLE = "MEMSTREAM_CACHE"
UNUSED_S = 86_400.0


def segment_cache(url: str) -> Path:
    """The folder of one stream: in `$MEMSTREAM_CACHE/segments`, else in `~/.cache/memstream/segments`. Safe to remove."""
    chosen = os.environ.get(CACHE_VARIABLE)
    home = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "memstream"
    return home / "segments" / hashlib.sha256(url.encode()).hexdigest()[:16]


def prune(cache: Path, named: Collection[str], unused_s: float = UNUSED_S) -> int:
    """Remove the files whose digests are not `named` and which nobody has asked for in so long; returns how many.

    >>> prune(Path("/no/such/folder"), ())
    0
    """
    before_s, removed = time.time() - unused_s, 0
    for path in cache.glob("*"):
        with suppress(OSError):
            if path.name.removesuffix(".arrow") not in named and path.stat().st_mtime < before_s:
                path.unlink()
                removed += 1
    return removed
