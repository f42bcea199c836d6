"""How long a restore takes by blocks remembered: a snapshot is written into a folder, and a fresh memory is restored from it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from actors.images import BlockImages
from benchmarks.bench_blocks import random_memory
from jobs.command import start
from model.block_checkpoint import load_block_model
from model.catalog import NAME, checkpoint_folder
from model.memory.blocks import BlockMemory
from pipeline.positions import StreamState
from pipeline.snapshots.writer import SnapshotConfig, SnapshotContent, SnapshotStore

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    sizes: Annotated[str, typer.Option(help="Numbers of blocks, with commas.")] = "256,1024,4096",
    folder: Annotated[
        Path | None, typer.Option(help="Where to write; 1.1 MB a block. The system's own for temporary files if not given.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="A checkpoint of blocks.")] = NAME,
) -> None:
    """Print one JSON line for each number of blocks."""
    model = load_block_model(checkpoint_folder(checkpoint), "cpu", torch.bfloat16)
    for size in map(int, sizes.split(",")):
        root = Path(tempfile.mkdtemp(dir=folder, prefix="memstream-restore-"))
        try:
            print(json.dumps({"blocks": size, **measured(random_memory(model, size), root)}), flush=True)
        finally:
            shutil.rmtree(root)


def measured(memory: BlockMemory, root: Path) -> dict[str, float]:
    store = SnapshotStore(SnapshotConfig(root=str(root)), "bench")
    images = BlockImages(memory)
    started = time.perf_counter()
    staged = images.stage()
    staged_s = time.perf_counter() - started
    state = StreamState.beginning({})
    details = {"config": {}, "build": {}, "device": "cpu", "threads": 1}
    content = SnapshotContent(memory=staged, state=state, fingerprint=images.fingerprint, seed=0, **details)  # type: ignore[arg-type]
    started = time.perf_counter()
    manifest = store.write(content, store.claim_generation())
    written_s = time.perf_counter() - started
    fresh = BlockMemory(memory.model, capacity=len(memory))
    started = time.perf_counter()
    latest = store.latest()
    assert latest is not None
    BlockImages(fresh).restoring(latest.manifest, store)()
    restored_s = time.perf_counter() - started
    assert np.array_equal(fresh.updates(), memory.updates())
    return {
        "snapshot_gb": round(manifest.size_bytes / 1e9, 2),
        "stage_s": round(staged_s, 3),
        "write_s": round(written_s, 2),
        "restore_s": round(restored_s, 2),
    }


if __name__ == "__main__":
    start(app)
