"""`pin`, `unpin`, `restore`, `gc`: what is kept, what goes, and what a stream goes on from."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import AsJson, ConfigFile, Overrides
from jobs.snapshots.opening import Epoch, Opened, Root, Stream, Yes
from jobs.snapshots.printed import places, size
from pipeline.errors import ConfigurationError, SnapshotCorrupt, SnapshotError
from pipeline.records import Partition
from pipeline.snapshots.collector import Collected, Collector
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.pins import Pins
from pipeline.snapshots.restoring import restore as restore_
from pipeline.snapshots.restoring import skipped

_SKIP = re.compile(r"(?P<partition>.+/\d{1,9})@(?P<offset>\d{1,18})")


def pin(
    epoch: Epoch,
    note: Annotated[str, typer.Option(help="What it is kept for.")] = "",
    config: ConfigFile = None,
    overrides: Overrides = None,
    root: Root = None,
    stream: Stream = None,
    as_json: AsJson = False,
) -> None:
    """Keep a snapshot whatever `snapshots.retention` says, until it is unpinned."""
    reader = Opened(config, overrides, root, stream).reader
    new = Pins(reader.objects).pin(epoch, note)
    _say(
        as_json,
        {"epoch": epoch, "pinned": True, "changed": new},
        f"snapshot {epoch} {'is pinned' if new else 'was pinned already'}: it stays until `memstream snapshots unpin {epoch}`",
    )


def unpin(
    epoch: Epoch, config: ConfigFile = None, overrides: Overrides = None, root: Root = None, stream: Stream = None, as_json: AsJson = False
) -> None:
    """Leave a snapshot to `snapshots.retention` again."""
    opened = Opened(config, overrides, root, stream)
    changed = Pins(opened.reader.objects).unpin(epoch)
    kept = Collector(opened.reader, opened.retention()).kept()
    said = f"it is kept as {kept.why[epoch]!r}" if epoch in kept.why else "retention removes it after the next snapshot, or `gc` now"
    _say(
        as_json,
        {"epoch": epoch, "pinned": False, "changed": changed, "kept": kept.why.get(epoch)},
        f"snapshot {epoch} {'is not pinned any more' if changed else 'was not pinned'}: {said}",
    )


def restore(
    epoch: Annotated[int | None, typer.Option("--epoch", help="The snapshot to go back to; else the last one that is whole.")] = None,
    skip_to: Annotated[
        list[str] | None,
        typer.Option("--skip-to", metavar="TOPIC/P@OFFSET", help="Go on at this offset; those left out count as gap. Repeatable."),
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Take a snapshot without a valid signature, if its objects are whole; the new one is signed.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    root: Root = None,
    stream: Stream = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier snapshot, or past records that cannot be read, and let the next start go on from there.

    Writes a new snapshot with that state. Writers that run stop when they next save; the older snapshots stay as they are.
    """
    if epoch is None and not skip_to:
        raise typer.BadParameter("say where to go on from: --epoch N, --skip-to TOPIC/P@OFFSET, or both")
    opened, to = Opened(config, overrides, root, stream), dict(map(_skip, skip_to or ()))
    base = _base(opened, epoch, unsigned)
    newest = max(opened.reader.epochs())
    after = skipped(opened.unchecked.read_state(base), to)
    left_out = sum(position - base.positions[str(partition)] for partition, position in to.items())
    lost = [f"{left_out} offsets are left out for good"] if left_out else []
    if base.epoch < newest:
        lost.append(f"what was learned after snapshot {base.epoch} is learned again, as far as the topics still hold it")
    lost.append("a writer that runs loses what it has learned since its last snapshot")
    _confirm(yes, as_json, f"restore {opened.stream}@{base.epoch} at {places(_named(after.positions))}: {'; '.join(lost)}")
    made = restore_(opened.store, base, to)
    fact = {
        "epoch": made.epoch,
        "generation": made.generation,
        "restored_from": base.epoch,
        "positions": made.positions,
        "left_out": left_out,
        "counts": {outcome.value: count for outcome, count in made.counts.items()},
        "memory_sha256": made.memory_sha256,
    }
    told = [f"snapshot {made.epoch} holds the state of snapshot {base.epoch}, at {places(made.positions)}"]
    told += [f"{left_out} offsets were left out and count as gap"] if left_out else []
    told += [
        f"generation {made.generation} is claimed: a writer that runs stops when it next saves",
        "the next `memstream run` goes on from here",
    ]
    _say(as_json, fact, "\n".join(told))


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    min_age: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Instead of retention.garbage_after_s. Readers of old snapshots may need what is younger."
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    root: Root = None,
    stream: Stream = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Apply `snapshots.retention` now: remove snapshots that are not kept, and objects that none has named for long enough.

    A running stream does so after each snapshot. Objects are only marked when they are first seen without a name, and go in a later run.
    """
    opened = Opened(config, overrides, root, stream)
    retention = opened.retention()
    if min_age is not None:
        retention = retention.model_copy(update={"garbage_after_s": min_age})
    collector = Collector(opened.reader, retention)
    planned = collector.plan()
    if dry_run:
        _say(as_json, {**_collected([planned]), "dry_run": True}, _told([planned], "would be removed"))
        return
    if planned.kept.broken and not planned.kept.why:
        raise SnapshotCorrupt(f"no snapshot in {opened.reader.url} is whole, so nothing is removed: `verify` says what is wrong")
    if planned.expired:
        _confirm(yes, as_json, f"remove {len(planned.expired)} snapshots ({_numbers(planned.expired)}) of {opened.reader.url} for good")
    runs = [collector.collect()]
    while runs[-1].unfinished:
        if not as_json:
            typer.echo(_told(runs, "removed so far").splitlines()[0], err=True)
        runs.append(collector.collect())
    _say(as_json, {**_collected(runs), "dry_run": False}, _told(runs, "removed"))


def _base(opened: Opened, epoch: int | None, unsigned: bool) -> Manifest:
    """The snapshot to go on from, whole."""
    reader = opened.unchecked if unsigned else opened.reader
    latest = reader.latest() if epoch is None else None
    if epoch is None and latest is None:
        raise SnapshotError(f"no snapshots in {reader.url}")
    manifest = latest.manifest if latest is not None else reader.load(epoch or 0)
    if problems := reader.verify(manifest, segments=unsigned):
        raise SnapshotCorrupt("\n".join([f"snapshot {manifest.epoch} is broken, restore another one:", *map(str, problems)]))
    said = manifest.config.get("snapshots")
    if isinstance(said, dict) and said.get("signing_keys") and not opened.config.signing_keys:
        raise ConfigurationError("this stream's snapshots are signed: name its configuration with --config, so that the new one is, too")
    return manifest


def _skip(text: str) -> tuple[Partition, int]:
    match = _SKIP.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"--skip-to {text}: want TOPIC/PARTITION@OFFSET, as in --skip-to news/0@1042")
    return Partition.parse(match["partition"]), int(match["offset"])


def _confirm(yes: bool, as_json: bool, what: str) -> None:
    """Only where something is lost. A script says --yes."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise ConfigurationError(f"this would {what}. If that is what you want, say --yes")
    typer.confirm(f"This will {what}. Go on?", abort=True, err=True)


def _say(as_json: bool, facts: dict[str, Any], told: str) -> None:
    print(json.dumps(facts, indent=2) if as_json else told)


def _collected(runs: list[Collected]) -> dict[str, Any]:
    last = runs[-1]
    return {
        "expired": [epoch for run in runs for epoch in run.expired],
        "removed": [name for run in runs for name in run.removed],
        "freed_bytes": sum(run.freed_bytes for run in runs),
        "kept": {str(epoch): why for epoch, why in sorted(last.kept.why.items())},
        "broken": list(last.kept.broken),
        **{name: value for name, value in asdict(last).items() if name in ("waiting", "waiting_bytes", "under_way", "unfinished")},
    }


def _told(runs: list[Collected], verb: str) -> str:
    found, last = _collected(runs), runs[-1]
    lines = [
        f"{len(found['expired'])} snapshots {verb} ({_numbers(found['expired'])}), {len(last.kept.why)} are kept",
        f"{len(found['removed'])} objects {verb}, {size(found['freed_bytes'])}",
        f"{last.waiting} objects wait until nobody can need them any more, {size(last.waiting_bytes)}",
    ]
    if last.under_way:
        lines.append(f"{len(last.under_way)} objects may belong to a snapshot that is just being written")
    if last.kept.broken:
        lines.append(f"broken, and left to be looked at: {_numbers(last.kept.broken)} (`memstream snapshots verify`)")
    return "\n".join(lines)


def _numbers(epochs: tuple[int, ...] | list[int]) -> str:
    shown = ", ".join(map(str, epochs[:10]))
    return (shown or "none") + (f" ... {epochs[-1]}" if len(epochs) > 10 else "")


def _named(positions: Any) -> dict[str, int]:
    return {str(partition): position for partition, position in sorted(positions.items())}
