"""A poller that dies of what it reads, as one does whose parser crashes or whose memory runs out: with kill -9, and for good."""

from __future__ import annotations

import os
import signal
from typing import Any

from kafka.record import default_records

from actors.messages import Learnable
from actors.poller import Poller
from pipeline.fetched import Item
from pipeline.kafka_patches import gzip_decode
from pipeline.records import Record

DEADLY_RECORD = b"deadly to decode"
DEADLY_BATCH = b"deadly to unfold"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly_gzip(payload: Any) -> bytes:
    unfolded = gzip_decode(payload)
    if DEADLY_BATCH in unfolded:
        _die()
    return unfolded


class PoisonedPoller(Poller):
    """Dies when it decodes a record that holds `DEADLY_RECORD`, and when it unfolds a batch that holds `DEADLY_BATCH`."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        default_records.gzip_decode = _deadly_gzip

    def _decoded(self, item: Item) -> Learnable:
        if isinstance(item, Record) and DEADLY_RECORD in (item.value or b""):
            _die()
        return super()._decoded(item)


class StillbornPoller(Poller):
    """Dies as it connects."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        _die()
