"""Texts that are nearly the same: signatures to compare them by, and an index that finds them among all that is remembered.

    title and text -> words -> shingles of three -> MinHash (rensa), 128 values of 16 bits = 256 bytes -> 32 bands of 4

A signature depends on the text alone and is kept in the ledger, so a replay, a restore and every partition come to the same verdict
(REPLAY-EXACT). The share of equal values estimates the share of shingles that two texts have in common (Jaccard), to within some 0.04.
Two texts are compared if one band is the same: at a likeness of 0.7 that fails to happen once in 5,000 times, at 0.6 once in 85, at 0.5
once in 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from immutables import Map
from rensa import RMinHash

from pipeline.names import seen_alike

LEAST_LIKENESS: Final = 0.5
"""Below it, one pair in eight or more would be missed."""

_VALUES: Final = 128
_SEED: Final = 1
_SHINGLE: Final = 3
_BAND_BYTES: Final = 8
_BANDS: Final = 2 * _VALUES // _BAND_BYTES
_MOST_UNSORTED: Final = 4096

SCHEME: Final = f"rensa RMinHash {RMinHash.ALGORITHM_VERSION}, seed {_SEED}, {_VALUES} x 16 bits, {_SHINGLE} words"
"""What signatures were made by; those of another scheme cannot be compared with ours."""

_WORD: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+")
"""A word, or a single character of a script that is written without blanks."""

_Bucket: TypeAlias = str | Map[str, None]


def signature_of(title: str | None, text: str) -> bytes:
    """The signature of a document.

    >>> one = signature_of("Storm", "The storm reached the coast on Monday and cut the power of 4,000 houses.")
    >>> other = signature_of("STORM", "The storm reached the coast on Monday, and cut the power of 4,000 houses!")
    >>> len(one), likeness(one, other)
    (256, 1.0)
    """
    words = _WORD.findall(seen_alike(f"{title or ''}\n{text}").casefold()) or [text]
    shingles = {" ".join(words[place : place + _SHINGLE]) for place in range(max(len(words) - _SHINGLE, 0) + 1)}
    hashes = RMinHash(num_perm=_VALUES, seed=_SEED)
    hashes.update(list(shingles))
    # The low bits: a minimum of many is small, so its high bits tell little.
    return np.array(hashes.digest(), dtype=np.uint32).astype("<u2").tobytes()


def likeness(one: bytes, other: bytes) -> float:
    """The estimated share of shingles that two texts have in common: 1.0 for the same, 0.0 for nothing."""
    return likenesses([one], other)[0]


def likenesses(signatures: Sequence[bytes], other: bytes) -> list[float]:
    """The same, of many texts and one."""
    values_NV = np.frombuffer(b"".join(signatures), dtype="<u2").reshape(-1, _VALUES)
    found: list[float] = (values_NV == np.frombuffer(other, dtype="<u2")).mean(axis=1).tolist()
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """Many signatures, each band sorted: a look-up is a binary search a band. `keys_BN` and, beside them, which document each is of."""

    names: tuple[str, ...] = ()
    signatures: tuple[bytes, ...] = ()
    keys_BN: np.ndarray[Any, np.dtype[np.uint64]] = field(default_factory=lambda: np.zeros((_BANDS, 0), np.uint64))
    order_BN: np.ndarray[Any, np.dtype[np.int32]] = field(default_factory=lambda: np.zeros((_BANDS, 0), np.int32))

    @classmethod
    def of(cls, signatures: Iterable[tuple[str, bytes]]) -> _Sorted:
        pairs = list(signatures)
        bands_BN = np.frombuffer(b"".join(signature for _, signature in pairs), dtype="<u8").reshape(-1, _BANDS).T
        order_BN = np.argsort(bands_BN, axis=1, kind="stable").astype(np.int32)
        keys_BN = np.take_along_axis(bands_BN, order_BN, axis=1).astype(np.uint64)
        return cls(tuple(name for name, _ in pairs), tuple(signature for _, signature in pairs), keys_BN, order_BN)

    def like(self, signature: bytes) -> Iterator[str]:
        for keys_N, order_N, key in zip(self.keys_BN, self.order_BN, np.frombuffer(signature, dtype="<u8"), strict=True):
            first = keys_N.searchsorted(key)
            while first < len(keys_N) and keys_N[first] == key:
                yield self.names[order_N[first]]
                first += 1


@dataclass(frozen=True, slots=True, eq=False)
class Likenesses:
    """Which documents may be like a text. Immutable and shared, as the ledger that keeps it.

    What came lately is in maps; when that is much, all of it is sorted anew. With the signature that is 0.9 kB a document; among 100,000 a
    look-up takes 50 us. What is found does not depend on which is where.
    """

    _sorted: _Sorted = field(default_factory=_Sorted)
    _gone: Map[str, None] = field(default_factory=Map)
    _fresh: Map[str, bytes] = field(default_factory=Map)
    _bands: Map[int, _Bucket] = field(default_factory=Map)

    @classmethod
    def of(cls, signatures: Iterable[tuple[str, bytes]]) -> Likenesses:
        """Of many documents at once: ids and signatures."""
        return cls(_Sorted.of(signatures))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        old = zip(self._sorted.names, self._sorted.signatures, strict=True)
        yield from ((name, signature) for name, signature in old if name not in self._gone)
        yield from self._fresh.items()

    def added(self, name: str, signature: bytes) -> Likenesses:
        """With a document that is not there yet."""
        bands = self._bands.mutate()
        for band in _bands(signature):
            bands[band] = _with(bands.get(band), name)
        return Likenesses(self._sorted, self._gone, self._fresh.set(name, signature), bands.finish())._settled()

    def removed(self, name: str, signature: bytes) -> Likenesses:
        """Without a document that is there."""
        if name not in self._fresh:
            return Likenesses(self._sorted, self._gone.set(name, None), self._fresh, self._bands)._settled()
        bands = self._bands.mutate()
        for band in _bands(signature):
            left = _without(bands[band], name)
            if left is None:
                del bands[band]
            else:
                bands[band] = left
        return Likenesses(self._sorted, self._gone, self._fresh.delete(name), bands.finish())

    def candidates(self, signature: bytes) -> set[str]:
        """Ids of the documents that share a band with it."""
        found = {name for name in self._sorted.like(signature) if name not in self._gone}
        for band in _bands(signature):
            bucket = self._bands.get(band)
            if isinstance(bucket, str):
                found.add(bucket)
            elif bucket is not None:
                found.update(bucket)
        return found

    def _settled(self) -> Likenesses:
        return Likenesses.of(self) if max(len(self._fresh), len(self._gone)) >= _MOST_UNSORTED else self


def _bands(signature: bytes) -> Iterator[int]:
    """Each band's number and bytes as one integer."""
    for number in range(_BANDS):
        yield number << 8 * _BAND_BYTES | int.from_bytes(signature[number * _BAND_BYTES : (number + 1) * _BAND_BYTES], "little")


def _with(bucket: _Bucket | None, name: str) -> _Bucket:
    """Nearly all buckets hold one document, which needs no map."""
    if bucket is None or bucket == name:
        return name
    return Map({bucket: None, name: None}) if isinstance(bucket, str) else bucket.set(name, None)


def _without(bucket: _Bucket, name: str) -> _Bucket | None:
    if isinstance(bucket, str):
        return None
    left = bucket.delete(name)
    return left if len(left) > 1 else next(iter(left))
