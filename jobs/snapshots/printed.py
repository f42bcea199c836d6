"""How snapshots look: in tables for people, as JSON for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pipeline.ledger import LedgerRow
from pipeline.snapshots.manifest import BlockShape, Manifest
from pipeline.snapshots.writer import Inspected


def summary(found: Inspected, kept: str | None = None) -> dict[str, Any]:
    """A snapshot as JSON, without the configuration that it was written with."""
    problems = [str(problem) for problem in found.problems]
    if found.manifest is None:
        return {"epoch": found.epoch, "kept": kept, "problems": problems}
    facts = found.manifest.model_dump(mode="json", exclude={"config", "build", "schema_version"})
    return {**facts, "size_bytes": found.manifest.size_bytes, "kept": kept, "problems": problems}


def table_of(found: Sequence[Inspected], kept: Mapping[int, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("epoch", "created", "kept", "updates", "applied", "memory", "size", "memory_sha256", "position"):
        table.add_column(name, justify="right" if name in ("epoch", "updates", "applied", "memory", "size") else "left")
    for each in found:
        table.add_row(*_cells(each, kept.get(each.epoch, "")))
    return table


def _cells(found: Inspected, kept: str) -> list[str]:
    manifest = found.manifest
    if manifest is None:
        return [str(found.epoch), f"[red]{found.problems[0].detail}"]
    return [
        str(manifest.epoch),
        manifest.created_at.strftime("%Y-%m-%d %H:%M:%S"),
        kept,
        str(manifest.update_number),
        str(manifest.counts.get("applied", 0)),  # type: ignore[call-overload]
        amount(manifest),
        size(manifest.size_bytes),
        manifest.memory_sha256[:12],
        places(manifest.positions),
    ]


def facts(manifest: Manifest, kept: str | None, documents: int, alive: Sequence[int] | None) -> str:
    """One snapshot, a line for each fact."""
    lines = {
        "snapshot": f"{manifest.stream}@{manifest.epoch}, by generation {manifest.generation}, {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "restored from": "" if manifest.restored_from is None else f"snapshot {manifest.restored_from}",
        "kept": kept or "no: retention removes it with its next run",
        "memory": f"{amount(manifest)}, {manifest.memory}",
        "memory_sha256": manifest.memory_sha256,
        "updates": str(manifest.update_number),
        "documents": str(documents),
        "positions": places(manifest.positions),
        "counting began at": places(manifest.origin),
        "counts": ", ".join(f"{outcome.value} {count}" for outcome, count in manifest.counts.items()),
        "cut off": f"{manifest.tokens_left_out} tokens of {manifest.documents_cut} documents",
        "newest event time": "none" if manifest.watermark_ms is None else str(manifest.watermark_ms),
        "model": manifest.model_fingerprint,
        "computed on": f"{manifest.device}, {manifest.threads} threads, "
        + ", ".join(f"{name} {version}" for name, version in manifest.build.items()),
        "objects": f"{len(manifest.objects)}, {size(manifest.size_bytes)}",
    }
    segments = [
        ("segment", f"{entry.path}: {left} of {entry.rows} blocks alive, {size(entry.size_bytes)}")
        for entry, left in zip(manifest.segments, alive or [], strict=False)
    ]
    return "\n".join(f"{name:<18} {value}" for name, value in (*lines.items(), *segments) if value)


def document(row: LedgerRow) -> dict[str, Any]:
    """A remembered document as JSON."""
    return {
        "document_id": row.document_id,
        "title": row.title,
        "source": row.source,
        "topic": row.partition.topic,
        "partition": row.partition.number,
        "offset": row.offset,
        "updates": list(row.updates),
    }


def named(row: LedgerRow) -> str:
    """A remembered document in a line; a feed's own text cannot move the cursor."""
    title = "".join(letter if letter.isprintable() else " " for letter in row.title or row.document_id)
    return f"{title} ({row.partition}@{row.offset})"


def places(positions: Mapping[str, int]) -> str:
    return ", ".join(f"{partition}@{position}" for partition, position in positions.items())


def amount(manifest: Manifest) -> str:
    memory = manifest.memory
    return f"{memory.blocks} blocks" if isinstance(memory, BlockShape) else f"{memory.num_tokens} tokens"


def size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
