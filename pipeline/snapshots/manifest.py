"""The manifest: one JSON file that says all there is to say about one snapshot. MANIFEST-LAST: without it there is no snapshot.

It names every object with size, rows and digest, and carries its own digest, so that a changed bit in a position is seen like one in
the memory: `manifest_sha256` is the SHA-256 of all other keys as JSON, sorted, without white space, ASCII only. Where keys are configured
the same bytes are signed, and with them, by the digests, everything that the manifest names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipeline.errors import SnapshotCorrupt, SnapshotError, SnapshotMismatch
from pipeline.records import Outcome
from pipeline.snapshots.signing import NO_KEYS, Keyring
from pipeline.strict_json import strict_json

SCHEMA_VERSION: Final = 4

Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]
Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class PoolShape(BaseModel):
    """The shape of a pool: L layers of N tokens of width d, of which one update writes K.

    >>> shape = PoolShape(num_layers=32, num_tokens=12_800, hidden_size=4096, update_tokens=256, dtype="bfloat16")
    >>> str(shape), shape.size_bytes
    ('L=32 N=12800 d=4096 K=256 bfloat16', 3355443200)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tokens"] = "tokens"
    num_layers: int = Field(gt=0, description="L")
    num_tokens: Count = Field(description="N: memory tokens in each layer; 0 for a pool that was never written")
    hidden_size: int = Field(gt=0, description="d: values of one token")
    update_tokens: int = Field(gt=0, description="K: tokens that one update writes into each layer")
    dtype: Dtype = Field(description="type of the values; bfloat16 is stored as its 16 bits")

    @property
    def size_bytes(self) -> int:
        return self.num_layers * self.num_tokens * self.hidden_size * (4 if self.dtype == "float32" else 2)

    def __str__(self) -> str:
        return f"L={self.num_layers} N={self.num_tokens} d={self.hidden_size} K={self.update_tokens} {self.dtype}"


class BlockShape(BaseModel):
    """The shape of blocks: of each of n <= K tokens, hidden states in R layers and one key.

    >>> shape = BlockShape(num_layers=19, first_layer=11, hidden_size=576, update_tokens=64, key_size=128, blocks=2)
    >>> str(shape), shape.token_bytes
    ('R=19 from layer 11, d=576 K=64 E=128 bfloat16', 22144)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["blocks"] = "blocks"
    num_layers: int = Field(gt=0, description="R: layers whose states are kept")
    first_layer: Count = Field(description="the lowest of them")
    hidden_size: int = Field(gt=0, description="d: values of one token in one layer")
    update_tokens: int = Field(gt=0, description="K: most tokens of a block")
    key_size: int = Field(gt=0, description="E: values of one token's key")
    blocks: Count = Field(default=0, description="blocks alive")

    @property
    def token_bytes(self) -> int:
        return 2 * (self.num_layers * self.hidden_size + self.key_size)

    def __str__(self) -> str:
        return f"R={self.num_layers} from layer {self.first_layer}, d={self.hidden_size} K={self.update_tokens} E={self.key_size} bfloat16"


class ObjectEntry(BaseModel):
    """One object of a snapshot: where it is, under `<root>/<stream>/`, and how to know that it is whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(pattern=r"^(?:data/[A-Za-z0-9-]+/[a-z]+|blocks/[A-Za-z0-9-]+)\.arrow$", description="relative to the stream's folder")
    size_bytes: Count
    rows: Count = Field(description="rows in all record batches")
    sha256: Sha256 = Field(description="of the object's bytes, as sha256sum prints it")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_segment(self) -> bool:
        """Blocks, which other snapshots may name too."""
        return self.path.startswith("blocks/")


class Manifest(BaseModel):
    """Everything about one snapshot but the values themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[4] = SCHEMA_VERSION
    stream: str
    epoch: int = Field(gt=0, description="number of the snapshot; grows by one")
    generation: int = Field(gt=0, description="number of the writer, see generations/")
    created_at: AwareDatetime
    model_fingerprint: str = Field(description="of the model whose memory this is; another one is refused")
    memory: PoolShape | BlockShape = Field(discriminator="kind")
    memory_sha256: Sha256 = Field(
        description="tokens: over the pool's values, layer by layer, oldest token first; blocks: over the blocks' digests, oldest first"
    )
    seed: int = Field(description="what updates drop is drawn from (seed, update number, layer)")
    update_number: Count = Field(description="updates that the stream has made so far; the number of the next one")
    commits: Count = Field(description="commits that made up the state so far, see pipeline/commits.py; the number of the next one")
    origin: dict[str, int] = Field(description="where counting began, by TOPIC/PARTITION")
    positions: dict[str, int] = Field(description="the next offset to read, by TOPIC/PARTITION")
    topic_ids: dict[str, str] = Field(description="Kafka's ids of the topics of the positions, by TOPIC/PARTITION; old brokers tell none")
    tokens_left_out: Count = Field(description="text tokens that were cut off documents because they were too long, ever")
    documents_cut: Count = Field(description="how many documents that were")
    watermark_ms: int | None = Field(description="latest event time passed, milliseconds since the epoch; null before the first")
    counts: dict[Outcome, Count] = Field(description="offsets passed, by what became of them; sum = sum of positions - origin")
    restored_from: int | None = Field(default=None, description="the snapshot whose state this is, where an earlier one was restored")
    config: dict[str, JsonValue] = Field(description="the effective configuration, secrets masked")
    build: dict[str, JsonValue] = Field(description="versions of what computed it")
    device: str = Field(description="kind of device that computed it; for a CPU with its capability")
    threads: int = Field(gt=0, description="threads that computed it")
    objects: tuple[ObjectEntry, ...]

    DIGEST_KEY: ClassVar[str] = "manifest_sha256"
    SIGNATURE_KEY: ClassVar[str] = "signature"

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.objects)

    @property
    def segments(self) -> tuple[ObjectEntry, ...]:
        """The segments of blocks, in the order that `index.arrow` counts them in."""
        return tuple(entry for entry in self.objects if entry.is_segment)

    def object(self, name: str) -> ObjectEntry:
        """The entry of `pool.arrow`, `index.arrow` or `ledger.arrow`; raises SnapshotCorrupt if the manifest names none."""
        for entry in self.objects:
            if entry.name == name:
                return entry
        raise SnapshotCorrupt(f"{self.stream}@{self.epoch}: the manifest names no {name}")

    def require_model(self, fingerprint: str, shape: PoolShape | BlockShape) -> None:
        """Raises SnapshotMismatch unless that model, with a memory of that shape, wrote this snapshot."""
        if self.memory.kind != shape.kind:
            raise SnapshotMismatch(f"{self.stream}@{self.epoch} holds a memory of {self.memory.kind}, this model has one of {shape.kind}")
        if self.model_fingerprint != fingerprint:
            raise SnapshotMismatch(f"{self.stream}@{self.epoch} was written by model {self.model_fingerprint}, this is {fingerprint}")
        if isinstance(self.memory, BlockShape):
            expected: PoolShape | BlockShape = shape.model_copy(update={"blocks": self.memory.blocks})
        else:
            expected = shape if self.memory.num_tokens else shape.model_copy(update={"num_tokens": 0})
        if self.memory != expected:
            raise SnapshotMismatch(f"{self.stream}@{self.epoch} holds a memory of {self.memory}, this model has {shape}")

    def to_json(self, keys: Keyring = NO_KEYS) -> bytes:
        """As it is stored: indented, for people, with its own digest at the end, and a signature where there are keys."""
        content = self.model_dump(mode="json")
        plain = _canonical(content)
        signature = keys.sign(plain)
        signed = {} if signature is None else {self.SIGNATURE_KEY: signature}
        return json.dumps({**content, self.DIGEST_KEY: _sha256(plain), **signed}, indent=2, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str, keys: Keyring = NO_KEYS) -> Self:
        """Raises SnapshotCorrupt if it is not what was written or not by whom it should be, SnapshotError if a newer memstream wrote it."""
        content = _object(data, where)
        version, signature = content.get("schema_version"), content.pop(cls.SIGNATURE_KEY, None)
        said, plain = content.pop(cls.DIGEST_KEY, None), _canonical(content)
        if said != _sha256(plain):
            raise SnapshotCorrupt(f"{where}: the manifest's own SHA-256 is wrong")
        keys.verify(plain, signature, where)
        if isinstance(version, int) and version < SCHEMA_VERSION:
            raise SnapshotMismatch(
                f"{where} was written by an older memstream (manifest version {version}): its memory cannot be used by this one (version"
                f" {SCHEMA_VERSION}). Choose another `stream` name or `snapshots.root`, and the stream is learned anew"
            )
        if version != SCHEMA_VERSION:
            raise SnapshotError(f"{where}: manifest of version {version}, this memstream reads {SCHEMA_VERSION}: use the one that wrote it")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise SnapshotCorrupt(f"{where}: {error}") from error


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = strict_json(data.decode())
    except ValueError as error:  # bad JSON and bad UTF-8 both are
        raise SnapshotCorrupt(f"{where}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SnapshotCorrupt(f"{where}: not a manifest: a JSON {type(content).__name__}")
    return content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
