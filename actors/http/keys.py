"""Who may do what, and how often."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass

from actors.http.config import HttpConfig, KeyConfig, Use
from actors.http.errors import Refused


@dataclass(slots=True)
class _Bucket:
    """Requests that a key has left: as many as it may have a minute, and it fills again evenly."""

    left: float
    at_s: float

    def take(self, per_minute: int, now_s: float) -> float:
        """Seconds until there is one to take; 0: it has been taken."""
        self.left = min(float(per_minute), self.left + (now_s - self.at_s) * per_minute / 60)
        self.at_s = now_s
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) * 60 / per_minute


class Doorkeeper:
    """Lets requests in by their keys."""

    def __init__(self, config: HttpConfig) -> None:
        self._keys = config.keys
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, authorization: str | None, use: Use) -> str:
        """Whose request it is; "" where no keys are wanted.

        Raises:
            Refused: 401 without a known key, 403 with one that may not do this, 429 with one that came too often.
        """
        if not self._keys:
            return ""
        key = self._known(authorization)
        if use not in key.may:
            raise Refused(403, f"this key may not {use}", code="not_permitted")
        if key.per_minute is not None:
            now_s = time.monotonic()
            bucket = self._buckets.setdefault(key.name, _Bucket(float(key.per_minute), now_s))
            wait_s = bucket.take(key.per_minute, now_s)
            if wait_s:
                raise Refused(
                    429, f"this key may send {key.per_minute} requests a minute", code="rate_limit_exceeded", retry_after_s=wait_s
                )
        return key.name

    def _known(self, authorization: str | None) -> KeyConfig:
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Refused(401, "send a key: Authorization: Bearer KEY", code="no_key")
        digest = hashlib.sha256(given.strip().encode(errors="surrogatepass")).hexdigest()
        # All of them are compared, so that the time it takes tells nothing.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise Refused(401, "this key is not known", code="invalid_api_key")
        return found[0]
