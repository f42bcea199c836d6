"""`list`, `show`, `verify`, `diff`: nothing is changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.options import AsJson, ConfigFile, Overrides
from jobs.snapshots.opening import Epoch, Opened, Root, Stream
from jobs.snapshots.printed import document, facts, named, size, summary, table_of
from pipeline.errors import NoSuchSnapshot, SnapshotCorrupt, SnapshotError
from pipeline.ledger import LedgerRow
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.differences import Difference, difference
from pipeline.snapshots.manifest import BlockShape
from pipeline.snapshots.writer import Inspected, SnapshotReader


def list_(
    config: ConfigFile = None, overrides: Overrides = None, root: Root = None, stream: Stream = None, as_json: AsJson = False
) -> None:
    """The snapshots of a stream, oldest first, and what each is kept for, as their manifests tell; nothing is verified."""
    opened = Opened(config, overrides, root, stream)
    kept = _kept(opened)
    found = [each for epoch in opened.reader.epochs() if (each := _inspected(opened.reader, epoch, verify=False)) is not None]
    if as_json:
        print(json.dumps([summary(each, kept.get(each.epoch)) for each in found], indent=2))
    elif found:
        Console(highlight=False).print(table_of(found, kept))
    else:
        typer.echo(f"no snapshots in {opened.reader.url}", err=True)


def show(
    epoch: Epoch, config: ConfigFile = None, overrides: Overrides = None, root: Root = None, stream: Stream = None, as_json: AsJson = False
) -> None:
    """All that is known of one snapshot: whose it is, where it stands, what it counts, where it lies. Exits 1 if it is not whole."""
    opened = Opened(config, overrides, root, stream)
    reader = opened.reader
    manifest, kept = reader.load(epoch), _kept(opened).get(epoch)
    problems = [str(problem) for problem in reader.verify(manifest, segments=False)]
    alive = None if problems or not isinstance(manifest.memory, BlockShape) else reader.alive(manifest)
    documents = 0 if problems else len(reader.read_ledger(manifest))
    if as_json:
        more = {"kept": kept, "size_bytes": manifest.size_bytes, "documents": documents, "alive": alive, "problems": problems}
        print(json.dumps({**manifest.model_dump(mode="json"), **more}, indent=2))
    else:
        print(facts(manifest, kept, documents, alive))
    if problems:
        raise SnapshotCorrupt("\n".join([f"snapshot {epoch} in {reader.url} is broken:", *problems]))


def verify(
    epochs: Annotated[list[int] | None, typer.Argument(help="Which snapshots; all if none is named.", show_default=False)] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    root: Root = None,
    stream: Stream = None,
    as_json: AsJson = False,
) -> None:
    """Read every object and compare size and SHA-256 with the manifest. Exits 1, naming each problem, unless all are whole."""
    reader = Opened(config, overrides, root, stream).reader
    chosen = epochs or reader.epochs()
    if not chosen:
        raise SnapshotError(f"no snapshots in {reader.url}")
    found = []
    for epoch in chosen:
        each = _inspected(reader, epoch) if epochs is None else reader.inspect(epoch)
        if each is not None:
            found.append(each)
        if not as_json:
            _tell(epoch, each)
    if as_json:
        print(json.dumps([summary(each) for each in found], indent=2))
    if broken := [each for each in found if each.problems]:
        problems = [str(problem) for each in broken for problem in each.problems]
        raise SnapshotCorrupt("\n".join([f"{len(broken)} of {len(found)} snapshots in {reader.url} are broken:", *problems]))


def diff(
    first: Epoch,
    second: Epoch,
    config: ConfigFile = None,
    overrides: Overrides = None,
    root: Root = None,
    stream: Stream = None,
    limit: Annotated[int, typer.Option(min=0, help="Documents named of each kind; their numbers are always told.")] = 20,
    as_json: AsJson = False,
) -> None:
    """What changed from one snapshot to another: positions, counts, and the documents that came, went or were replaced."""
    reader = Opened(config, overrides, root, stream).reader
    one, other = reader.load(first), reader.load(second)
    found = difference(one, reader.read_ledger(one), other, reader.read_ledger(other))
    if as_json:
        print(json.dumps(_as_json(found, limit), indent=2))
        return
    moved = [f"{name}: {before} -> {after}" for name, (before, after) in found.moved.items()]
    counted = [f"{name}: {before} -> {after}" for name, (before, after) in found.counted.items()]
    print("\n".join([f"updates: {found.updates[0]} -> {found.updates[1]}", *moved, *counted]))
    if found.same_memory:
        print("the memory is the same")
    for kind, rows in _documents(found).items():
        if rows:
            print("\n  ".join([f"{len(rows)} documents {kind}:", *map(named, rows[:limit]), *(["..."] if len(rows) > limit else [])]))


def _tell(epoch: int, found: Inspected | None) -> None:
    if found is None:
        print(f"epoch {epoch}: removed by retention meanwhile")
    elif not found.problems and found.manifest is not None:
        print(f"epoch {epoch}: whole ({size(found.manifest.size_bytes)}, memory {found.manifest.memory_sha256})")


def _inspected(reader: SnapshotReader, epoch: int, verify: bool = True) -> Inspected | None:
    """None for one that retention removes meanwhile."""
    try:
        return reader.inspect(epoch, verify)
    except NoSuchSnapshot:
        return None


def _kept(opened: Opened) -> dict[int, str]:
    return dict(Collector(opened.reader, opened.retention()).kept().why)


def _documents(found: Difference) -> dict[str, tuple[LedgerRow, ...]]:
    return {"came": found.came, "went": found.went, "replaced": found.replaced, "thinned": found.thinned}


def _as_json(found: Difference, limit: int) -> dict[str, Any]:
    rows = _documents(found)
    plain = {name: value for name, value in asdict(found).items() if name not in rows}
    return {**plain, **{name: {"count": len(each), "documents": [document(row) for row in each[:limit]]} for name, each in rows.items()}}
