"""Where records go that cannot be learned: a topic of their own, with the reason, replayable.

NOTHING-SILENT: a letter counts only once it is acknowledged, so a position may become durable only after `flush`. A crash in between
sends it again: (topic, partition, offset) in its headers tell such twins.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ConfigurationError, DeadLetterUnacknowledged, MemstreamError
from pipeline.fetched import OVERHEAD_BYTES
from pipeline.kafka_client import Closing, KafkaConfig, Producer, close_producer, is_refusal, kafka_errors, new_producer, translated
from pipeline.records import DeadLetter
from pipeline.topics import ensure_topic

log = logging.getLogger(__name__)

PREFIX = "memstream."
REPLAYS = "replays"
"""Header of a record that was replayed, and of its letter if it fails again: how often that was."""

_TRY_AGAIN_S = 0.2
_MOST_DIGITS = 6

_TRIES = 3
_MODEST_BYTES = 1 << 20
"""What every broker takes unless told otherwise."""

_NOT_THROUGH = (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError, kafka_errors.KafkaConnectionError)
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


class DeadLetterConfig(BaseModel):
    """Where dead letters go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = Field(default=None, description="Topic of the dead letters; none: `<first topic>.dead-letters`.")
    partitions: int = Field(default=1, ge=1, description="Partitions of that topic, if it must be made.")
    flush_timeout_s: float = Field(default=30.0, gt=0, description="How long `send` waits once too many bytes are pending.")
    max_pending_bytes: int = Field(default=16 << 20, ge=1, description="Bytes of letters that may wait for their acknowledgement.")
    max_detail_chars: int = Field(default=500, ge=0, description="Length of the detail header; the rest is cut off.")
    retries: int = Field(
        default=3, ge=0, description="How often `memstream dlq replay` publishes a record again that keeps failing; more only with --force."
    )

    def topic_for(self, kafka: KafkaConfig) -> str:
        """The topic of a stream's dead letters."""
        return self.topic or f"{kafka.topics[0]}.dead-letters"


def letter_headers(letter: DeadLetter, max_detail_chars: int = 500) -> list[tuple[str, bytes]]:
    """What the letter says of itself, then the record's own headers. Those of an earlier dead letter are replaced, not heaped up."""
    return told_headers(letter, max_detail_chars) + own_headers(letter)


def told_headers(letter: DeadLetter, max_detail_chars: int) -> list[tuple[str, bytes]]:
    """Reason and origin, and how often it had been replayed."""
    record = letter.record
    told = {
        "reason": letter.reason.value,
        "disposition": letter.disposition.value,
        "topic": record.partition.topic,
        "partition": str(record.partition.number),
        "offset": str(record.offset),
        "timestamp_ms": str(record.timestamp_ms),
        "detail": letter.detail[:max_detail_chars],
    }
    encoded = [(PREFIX + name, text.encode("utf-8", "backslashreplace")) for name, text in told.items()]
    replays = [count for name, count in record.headers if name == PREFIX + REPLAYS and count.isdigit() and len(count) < _MOST_DIGITS]
    return encoded + [(PREFIX + REPLAYS, count) for count in replays[:1]]


def own_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The record's own headers."""
    return [(name, value) for name, value in letter.record.headers if not name.startswith(PREFIX)]


class _Pending:
    """A letter on its way; `future` is None until the producer has it.

    What the topic refuses as too large is shortened part by part, the largest first, and says of each part left out how large it was and
    its digest. Origin and reason always stay: they say where the whole record is.
    """

    __slots__ = ("future", "headers", "key", "origin", "size_bytes", "timeouts", "told", "value")

    def __init__(self, letter: DeadLetter, max_detail_chars: int) -> None:
        self.key, self.value = letter.record.key, letter.record.value
        self.told = told_headers(letter, max_detail_chars)
        self.headers = own_headers(letter)
        self.origin = f"{letter.record.partition}/{letter.record.offset}"
        self.size_bytes = letter.record.size_bytes + OVERHEAD_BYTES
        self.future: Any | None = None
        self.timeouts = 0
        if self.key is None and self.value is None:
            # kafka-python refuses a record with neither
            self.value = b""
            self.told.append((PREFIX + "null_value", b"true"))

    @property
    def all_headers(self) -> list[tuple[str, bytes]]:
        return self.told + self.headers

    def shorten(self) -> bool:
        """Leave out the largest part that is left; False where there is none."""
        sizes = {"value": len(self.value or b""), "headers": _headers_bytes(self.headers), "key": len(self.key or b"")}
        largest = max(sizes, key=lambda part: sizes[part])
        if sizes[largest] == 0:
            return False
        if largest == "value":
            self._leave_out("value", self.value or b"")
            self.value = b""
        elif largest == "headers":
            self._leave_out("headers", b"".join(name.encode("utf-8", "backslashreplace") + value for name, value in self.headers))
            self.headers = []
        else:
            self._leave_out("key", self.key or b"")
            self.key = None
            self.value = b"" if self.value is None else self.value
        return True

    def _leave_out(self, part: str, content: bytes) -> None:
        self.told.append((f"{PREFIX}omitted_{part}_bytes", str(len(content)).encode()))
        self.told.append((f"{PREFIX}omitted_{part}_sha256", hashlib.sha256(content).hexdigest().encode()))

    def adapt(self, error: Exception) -> bool:
        """Whether the letter is another one now that the topic may take, after it was refused with `error`."""
        if isinstance(error, _TOO_LARGE):
            return self.shorten()
        if isinstance(error, _NOT_THROUGH) and self.size_bytes > _MODEST_BYTES:
            # The broker could be reached each time: it is the letter that does not get through.
            self.timeouts += 1
            return self.timeouts % _TRIES == 0 and self.shorten()
        if isinstance(error, kafka_errors.InvalidRecordError) and self.key is None:
            self.key = self.origin.encode()  # a compacted topic takes no record without a key
            self.told.append((PREFIX + "null_key", b"true"))
            return True
        return False


def _headers_bytes(headers: list[tuple[str, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


class DeadLetterSink(Closing):
    """Sends dead letters. Key and value stay untouched; `memstream.*` headers say why and from where.

    Nothing is connected before the first `send` or `flush`. BOUNDED: at most `max_pending_bytes` and one letter wait.
    """

    def __init__(self, kafka: KafkaConfig, config: DeadLetterConfig) -> None:
        self.topic = config.topic_for(kafka)
        if self.topic in kafka.topics:
            raise ConfigurationError(f"dead_letters.topic: {self.topic!r} is also read as a topic of the stream; choose another")
        self._kafka, self._config = kafka, config
        self._producer: Producer | None = None
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0

    @property
    def pending(self) -> int:
        """Letters that are not acknowledged."""
        return len(self._pending)

    def send(self, letter: DeadLetter, wait: bool = True) -> None:
        """Hand a letter over, without waiting for its acknowledgement unless too many bytes wait already.

        Raises DeadLetterUnacknowledged in that case, as `flush` does; the letter is kept all the same.
        """
        pending = _Pending(letter, self._config.max_detail_chars)
        self._pending.append(pending)
        self._pending_bytes += pending.size_bytes
        if wait and self._pending_bytes > self._config.max_pending_bytes:
            self.flush(self._config.flush_timeout_s)
            return
        try:
            self._dispatch(pending)
        except (kafka_errors.KafkaError, MemstreamError) as error:
            log.warning("a dead letter waits to be sent again: %s", error)

    def flush(self, timeout_s: float) -> None:
        """Return once every letter so far is acknowledged; what failed is sent again until then.

        Raises DeadLetterUnacknowledged after `timeout_s` (plus one request's time), with all unacknowledged letters kept.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._pending:
            try:
                self._settle(deadline_s)
            except DeadLetterUnacknowledged:
                raise  # what no repetition can mend is not repeated
            except (kafka_errors.KafkaError, MemstreamError) as error:
                if time.monotonic() >= deadline_s:
                    waiting = f"{len(self._pending)} dead letters for {self.topic!r} are not acknowledged"
                    raise DeadLetterUnacknowledged(f"{waiting}: {error}") from error
                time.sleep(_TRY_AGAIN_S)

    def close(self, timeout_s: float = 5.0) -> None:
        """End the connection. Letters that are not acknowledged are given up: flush first."""
        if self._pending:
            log.warning("%d dead letters were not acknowledged", len(self._pending))
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, timeout_s)

    def _settle(self, deadline_s: float) -> None:
        for pending in self._pending:
            if pending.future is None:
                self._dispatch(pending)
        while self._pending:
            self._acknowledged(self._pending[0], deadline_s)
            self._pending_bytes -= self._pending.popleft().size_bytes

    def _dispatch(self, pending: _Pending) -> None:
        if self._producer is None:
            ensure_topic(self._kafka, self.topic, self._config.partitions)
            # not idempotent: that kind never recovers from a record that was too large, and a letter may come twice anyway
            self._producer = new_producer(self._kafka, idempotent=False)
        try:
            pending.future = self._producer.send(self.topic, key=pending.key, value=pending.value, headers=pending.all_headers)
        except _TOO_LARGE as error:  # larger than kafka-python itself takes
            if not pending.adapt(error):
                raise
            self._dispatch(pending)

    def _acknowledged(self, pending: _Pending, deadline_s: float) -> None:
        assert pending.future is not None
        try:
            pending.future.get(timeout=max(deadline_s - time.monotonic(), 0.0))
        except kafka_errors.KafkaError as error:
            settled = pending.future.is_done  # else there was no more time to wait for it
            if settled:
                self._start_over()
            if settled and not pending.adapt(error) and is_refusal(error):
                raise DeadLetterUnacknowledged(
                    f"{self.topic!r} takes no dead letter, not even reason and origin alone ({error}): raise that topic's"
                    " max.message.bytes, let this user write there, or name another one with dead_letters.topic"
                ) from error
            raise translated(error, self._kafka) from error

    def _start_over(self) -> None:
        """After a failure the producer may be in a state that it never leaves: what waits is sent again by a new one."""
        producer, self._producer = self._producer, None
        for pending in self._pending:
            pending.future = None
        if producer is not None:
            close_producer(producer, _TRY_AGAIN_S)
