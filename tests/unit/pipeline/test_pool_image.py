"""The pool in Arrow: the same bits back, one layer at a time."""

from __future__ import annotations

import hashlib
import tracemalloc
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pipeline.errors import SnapshotCorrupt
from pipeline.snapshots.manifest import Dtype
from pipeline.snapshots.objects import ObjectStore
from pipeline.snapshots.pool_image import LayerImage, PoolImage, numpy_dtype, pool_sha256, read_layers, write_pool
from pipeline.snapshots.stores import open_store

NAME = "data/1/pool.arrow"
DTYPES: list[Dtype] = ["bfloat16", "float16", "float32"]


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


def any_bits(dtype: Dtype, seed: int, count: int) -> NDArray[Any]:
    """Every 16-bit pattern, or any 32-bit ones: infinities, subnormals, quiet and signalling NaNs with payloads."""
    if numpy_dtype(dtype).itemsize == 2:
        bits: NDArray[Any] = np.roll(np.arange(count, dtype=np.uint16), seed)
    else:
        bits = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)
        bits[:4] = [0x7F800001, 0xFFC0DEAD, 0x80000000, 0x00000001]
    return bits.view(numpy_dtype(dtype))


def layer(dtype: Dtype = "bfloat16", seed: int = 0, tokens: int = 64, width: int = 1024) -> LayerImage:
    generator = np.random.default_rng(seed)
    return LayerImage(
        slots=generator.permutation(2 * tokens)[:tokens].astype(np.int32),
        updates=np.sort(generator.integers(-1, 9, tokens)),
        memory=any_bits(dtype, seed, tokens * width).reshape(tokens, width),
    )


def image(
    layers: Iterable[LayerImage],
    num_layers: int = 3,
    dtype: Dtype = "bfloat16",
    num_tokens: int = 64,
    hidden_size: int = 1024,
) -> PoolImage:
    return PoolImage(layers=layers, num_layers=num_layers, num_tokens=num_tokens, update_tokens=16, hidden_size=hidden_size, dtype=dtype)


def write(store: ObjectStore, pool: PoolImage) -> tuple[int, str]:
    with store.writer(NAME) as sink:
        return write_pool(sink, pool, "fingerprint")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_come_back(store: ObjectStore, dtype: Dtype) -> None:
    written = [layer(dtype, seed) for seed in range(3)]
    pool = image(written, dtype=dtype)
    rows, digest = write(store, pool)
    with store.reader(NAME) as source:
        read = list(read_layers(source, pool.shape))
        whole = source.drain()
    assert rows == 3 * 64
    assert (
        digest
        == pool_sha256(written)
        == pool_sha256(read)
        == hashlib.sha256(b"".join(each.memory.tobytes() for each in written)).hexdigest()
    )
    assert whole.sha256 == hashlib.sha256(store.read(NAME)).hexdigest()
    for before, after in zip(written, read, strict=True):
        assert before.memory.tobytes() == after.memory.tobytes()
        assert (after.slots == before.slots).all()
        assert (after.updates == before.updates).all()
        assert [each.dtype.name for each in (after.slots, after.updates)] == ["int32", "int64"]
        assert after.memory.dtype == numpy_dtype(dtype)
        assert after.memory.flags.writeable


def test_equal_pools_have_equal_sums_wherever_they_lie() -> None:
    first = layer()
    moved = LayerImage(slots=first.slots[::-1].copy(), updates=first.updates, memory=np.asfortranarray(first.memory))
    assert pool_sha256([first]) == pool_sha256([moved]) != pool_sha256([layer(seed=1)])


def test_strided_arrays_are_written_as_what_they_show(store: ObjectStore) -> None:
    plain = layer()
    strided = LayerImage(
        slots=np.repeat(plain.slots, 2)[::2], updates=np.repeat(plain.updates, 2)[::2], memory=np.asfortranarray(plain.memory)
    )
    pool = image([strided], num_layers=1)
    assert write(store, pool)[1] == pool_sha256([plain])
    with store.reader(NAME) as source:
        (read,) = read_layers(source, pool.shape)
    assert read.memory.tobytes() == plain.memory.tobytes()
    assert (read.slots == plain.slots).all()
    assert (read.updates == plain.updates).all()


def test_a_pool_that_was_never_written(store: ObjectStore) -> None:
    pool = image([layer(tokens=0), layer(tokens=0)], num_layers=2, num_tokens=0)
    assert write(store, pool) == (0, hashlib.sha256().hexdigest())
    with store.reader(NAME) as source:
        assert [each.memory.shape for each in read_layers(source, pool.shape)] == [(0, 1024), (0, 1024)]


def test_writing_never_holds_two_layers(store: ObjectStore) -> None:
    alive: list[weakref.ref[NDArray[Any]]] = []
    most = 0

    def one_after_another() -> Iterator[LayerImage]:
        nonlocal most
        for seed in range(6):
            made = layer("float32", seed)
            alive.append(weakref.ref(made.memory))
            most = max(most, sum(each() is not None for each in alive))
            yield made
            del made

    write(store, image(one_after_another(), num_layers=6, dtype="float32"))
    assert len(alive) == 6
    assert most == 1


def test_reading_never_holds_two_layers(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    pool = image((layer("float32", seed) for seed in range(6)), num_layers=6, dtype="float32")
    write(store, pool)
    with store.reader(NAME) as source:
        layers = read_layers(source, pool.shape)
        tracemalloc.start()
        let_go = [next_is_let_go(layers) for _ in range(6)]
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert all(let_go)
    assert peak_bytes < 2.5 * pool.shape.size_bytes / 6, "the bytes of one layer as they were read, and the copy that is handed out"


def next_is_let_go(layers: Iterator[LayerImage]) -> bool:
    """Take a layer, drop it, and see that nobody else kept it."""
    memory = weakref.ref(next(layers).memory)
    return memory() is None


def test_the_file_says_what_it_is(store: ObjectStore) -> None:
    write(store, image([layer()], num_layers=1))
    file = pa.ipc.open_file(pa.py_buffer(store.read(NAME)))
    assert [(field.name, str(field.type)) for field in file.schema] == [
        ("layer", "int32"),
        ("slot", "int32"),
        ("update", "int64"),
        ("memory", "fixed_size_list<item: uint16 not null>[1024]"),
    ]
    assert file.schema.metadata == {
        b"memstream.format": b"pool/1",
        b"memstream.dtype": b"bfloat16",
        b"memstream.shape": b"[1, 64, 1024]",
        b"memstream.update_tokens": b"16",
        b"memstream.model_fingerprint": b"fingerprint",
    }


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "ends after 0 of 1 layers"),
        ([layer(), layer()], "more than its 1 layers"),
        ([layer(tokens=63)], "layer 0 has slots"),
        ([layer(width=1023)], "want "),
        ([layer("float16")], "types .*float16.*, want int32, int64, uint16"),
    ],
)
def test_an_image_that_breaks_its_word_is_refused(store: ObjectStore, layers: list[LayerImage], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(store, image(layers, num_layers=1))


@pytest.mark.parametrize("kept_bytes", [0, 4, 8, 200, 5_000, 200_000])
def test_a_file_cut_short_is_corrupt(store: ObjectStore, kept_bytes: int) -> None:
    pool = image([layer(seed=seed) for seed in range(3)])
    write(store, pool)
    store.create("cut", store.read(NAME)[:kept_bytes])
    with pytest.raises(SnapshotCorrupt), store.reader("cut") as source:
        list(read_layers(source, pool.shape))


def test_a_pool_of_another_shape_is_corrupt(store: ObjectStore) -> None:
    write(store, image([layer()], num_layers=1))
    for other in (image([], num_layers=1, num_tokens=63), image([], num_layers=1, hidden_size=512), image([], num_layers=2)):
        with pytest.raises(SnapshotCorrupt), store.reader(NAME) as source:
            list(read_layers(source, other.shape))
