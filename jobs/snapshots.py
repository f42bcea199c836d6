"""`python -m jobs.snapshots list|verify`: what is saved of a stream, and whether it is whole. Needs neither Ray nor Kafka nor the model."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from jobs.command import start
from jobs.config import load_config
from jobs.options import AsJson, ConfigFile, Overrides
from pipeline.errors import SnapshotCorrupt, SnapshotError
from pipeline.snapshots.manifest import BlockShape, Manifest
from pipeline.snapshots.writer import Inspected, SnapshotConfig, SnapshotReader

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List and verify the snapshots of a stream.")

Root: TypeAlias = Annotated[str | None, typer.Option(help="Where snapshots lie (snapshots.root): a folder or a URL.")]
Stream: TypeAlias = Annotated[str | None, typer.Option("--stream", help="Name of the stream.")]


@app.command("list")
def list_(
    config: ConfigFile = None, overrides: Overrides = None, root: Root = None, stream: Stream = None, as_json: AsJson = False
) -> None:
    """The snapshots of a stream, oldest first, as their manifests tell; nothing is verified."""
    reader = _reader(config, overrides, root, stream)
    found = [reader.inspect(epoch, verify=False) for epoch in reader.epochs()]
    if as_json:
        print(json.dumps([_summary(each) for each in found], indent=2))
    elif found:
        Console(highlight=False).print(_table(found))
    else:
        typer.echo(f"no snapshots in {reader.url}", err=True)


@app.command()
def verify(
    epochs: Annotated[list[int] | None, typer.Argument(help="Which snapshots; all if none is named.", show_default=False)] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    root: Root = None,
    stream: Stream = None,
    as_json: AsJson = False,
) -> None:
    """Read every object and compare size and SHA-256 with the manifest. Exits 1, naming each problem, unless all are whole."""
    reader = _reader(config, overrides, root, stream)
    chosen = epochs or reader.epochs()
    if not chosen:
        raise SnapshotError(f"no snapshots in {reader.url}")
    found = [_inspected(reader, epoch, as_json) for epoch in chosen]
    if as_json:
        print(json.dumps([_summary(each) for each in found], indent=2))
    if broken := [each for each in found if each.problems]:
        problems = [str(problem) for each in broken for problem in each.problems]
        raise SnapshotCorrupt("\n".join([f"{len(broken)} of {len(found)} snapshots in {reader.url} are broken:", *problems]))


def _inspected(reader: SnapshotReader, epoch: int, quiet: bool) -> Inspected:
    found = reader.inspect(epoch)
    if not quiet and not found.problems and found.manifest is not None:
        print(f"epoch {epoch}: whole ({_size(found.manifest.size_bytes)}, memory {found.manifest.memory_sha256})")
    return found


def _reader(config: ConfigFile, overrides: Overrides, root: str | None, stream: str | None) -> SnapshotReader:
    if config is None and (root is None or stream is None):
        raise typer.BadParameter("say which snapshots: --config FILE, or --root with --stream")
    if config is None:
        return SnapshotReader(SnapshotConfig(root=root or "").root, stream or "")
    loaded = load_config(config, overrides)
    return SnapshotReader(SnapshotConfig(root=root or loaded.snapshots.root).root, stream or loaded.stream)


def _summary(found: Inspected) -> dict[str, Any]:
    problems = [str(problem) for problem in found.problems]
    if found.manifest is None:
        return {"epoch": found.epoch, "problems": problems}
    facts = found.manifest.model_dump(mode="json", exclude={"config", "build", "schema_version"})
    return {**facts, "size_bytes": found.manifest.size_bytes, "problems": problems}


def _table(found: list[Inspected]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("epoch", "created", "updates", "applied", "memory", "size", "memory_sha256", "position"):
        table.add_column(name, justify="right" if name in ("epoch", "updates", "applied", "memory", "size") else "left")
    for each in found:
        table.add_row(*_cells(each))
    return table


def _cells(found: Inspected) -> list[str]:
    manifest = found.manifest
    if manifest is None:
        return [str(found.epoch), f"[red]{found.problems[0].detail}"]
    return [
        str(manifest.epoch),
        manifest.created_at.strftime("%Y-%m-%d %H:%M:%S"),
        str(manifest.update_number),
        str(manifest.counts.get("applied", 0)),  # type: ignore[call-overload]
        _amount(manifest),
        _size(manifest.size_bytes),
        manifest.memory_sha256[:12],
        ", ".join(f"{partition}@{position}" for partition, position in manifest.positions.items()),
    ]


def _amount(manifest: Manifest) -> str:
    memory = manifest.memory
    return f"{memory.blocks} blocks" if isinstance(memory, BlockShape) else f"{memory.num_tokens} tokens"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    start(app)
