"""Signed manifests, for buckets that others can write to: HMAC-SHA-256 with a secret that writer and readers share.

    "signature": {"key": "5f0c9a1e", "hmac_sha256": "..."}      over `memstream-manifest/1`, a line feed, and the bytes of manifest_sha256

A manifest names its stream, its number and the digests of all its objects, so one signature vouches for the whole snapshot, where it
stands. `key` tells which secret it was, so that several may be accepted while one takes another's place: the first signs.

It says who made a snapshot, not that it is the newest: whoever may delete there can still take the last ones away.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import ConfigurationError, SnapshotUntrusted
from pipeline.secrets import resolved

LEAST_BYTES: Final = 16
"""Of a secret: a signature can be tried against guesses by whoever reads it."""

_WHAT: Final = b"memstream-manifest/1\n"
_KEY: Final = "snapshots.signing_keys"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Where the keys are, the one that signs first. They are looked up when they are used.

    >>> import os
    >>> os.environ["SNAPSHOT_KEY"] = "a secret of some length"
    >>> keys = Keyring(("${SNAPSHOT_KEY}",))
    >>> keys.verify(b"{}", keys.sign(b"{}"), "here")
    """

    names: Sequence[str] = ()

    def sign(self, data: bytes) -> dict[str, str] | None:
        """None where there are no keys. Raises ConfigurationError for one that cannot be had."""
        return None if not self.names else _signature(_secret(self.names[0]), data)

    def verify(self, data: bytes, signature: object, where: str) -> None:
        """Raises SnapshotUntrusted unless one of our keys made the signature, ConfigurationError for a key that cannot be had.

        Without keys nothing is asked for.
        """
        if not self.names:
            return
        if not isinstance(signature, Mapping):
            raise SnapshotUntrusted(f"{where} is not signed, and {_KEY} asks for it")
        if not any(_equal(_signature(_secret(name), data), signature) for name in self.names):
            raise SnapshotUntrusted(f"{where} is signed by key {str(signature.get('key'))[:64]!r}, which is none of {_KEY}, or was changed")


NO_KEYS: Final = Keyring()


def _secret(name: str) -> bytes:
    secret = resolved(_KEY, name).encode()
    if len(secret) < LEAST_BYTES:
        raise ConfigurationError(f"{_KEY}: {name} holds {len(secret)} bytes, want {LEAST_BYTES} at least (openssl rand -hex 32 makes one)")
    return secret


def _signature(secret: bytes, data: bytes) -> dict[str, str]:
    name = hmac.digest(secret, b"memstream-key-name/1", hashlib.sha256).hex()[:8]
    return {"key": name, "hmac_sha256": hmac.digest(secret, _WHAT + data, hashlib.sha256).hex()}


def _equal(ours: Mapping[str, str], theirs: Mapping[Any, Any]) -> bool:
    said = theirs.get("hmac_sha256")
    return isinstance(said, str) and hmac.compare_digest(ours["hmac_sha256"].encode(), said.encode("utf-8", "replace"))
