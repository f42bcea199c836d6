"""The one place that makes kafka-python's clients: configuration, connections, and its errors put into ours.

Consumers and producers are made here alone, for three traps of kafka-python 3.0.12 that a caller cannot see: a constructor that finds no
broker leaves its I/O thread and sockets behind; a group id makes reading wait for the group's coordinator; a producer's `close` gives up
before it ends its thread when something could not be delivered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata
from pydantic import Field, field_validator

from pipeline import kafka_batches, kafka_patches
from pipeline.errors import AccessRefused, BrokerUnavailable, ConfigurationError, MemstreamError, StreamError
from pipeline.kafka_security import SecurityConfig, security_options
from pipeline.reachability import broker_address, require_answer
from pipeline.records import Partition

__all__ = [
    "Closing",
    "Consumer",
    "KafkaConfig",
    "OffsetAndMetadata",
    "Producer",
    "SecurityConfig",
    "TopicPartition",
    "admin_client",
    "close_producer",
    "connection_options",
    "is_refusal",
    "kafka_errors",
    "new_consumer",
    "new_producer",
    "of_kafka",
    "to_kafka",
    "translated",
    "translating",
]

Consumer: TypeAlias = Any
Producer: TypeAlias = Any

kafka_patches.apply()
kafka_batches.apply()

_MAX_REQUEST_BYTES = 64 << 20
_NOT_ALLOWED = (kafka_errors.AuthorizationError, kafka_errors.UnsupportedSaslMechanismError, kafka_errors.IllegalSaslStateError)
_NOT_POSSIBLE = (kafka_errors.KafkaConfigurationError, kafka_errors.UnsupportedCodecError, kafka_errors.UnsupportedVersionError)


class KafkaConfig(SecurityConfig):
    """Where the stream is and how it is read."""

    bootstrap_servers: tuple[str, ...] = Field(min_length=1, description="Brokers to ask first, as HOST:PORT; a list or comma-separated.")
    topics: tuple[str, ...] = Field(min_length=1, description="Topics of this stream; all their partitions are read.")
    group_id: str | None = Field(default=None, description="Group that positions are committed to, for lag tools only; none: no commits.")
    client_id: str = Field(default="memstream", description="Name of this client in the brokers' logs and quotas.")
    start: Literal["earliest", "latest"] = Field(default="earliest", description="Where a stream without positions begins.")
    on_data_loss: Literal["fail", "earliest", "latest"] = Field(
        default="fail", description="What to do when the log no longer holds the next position (recreated, truncated, aged out)."
    )
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        default="read_committed", description="Whether records of aborted transactions are left out."
    )
    max_poll_bytes: int = Field(default=4 << 20, ge=1 << 10, description="Bytes read ahead, shared evenly by the partitions.")
    max_partition_bytes: int = Field(default=512 << 10, ge=1 << 10, description="Bytes asked of a partition; a larger record still comes.")
    start_timeout_s: float = Field(default=60.0, gt=0, description="How long to wait for a broker and the topics at the start.")
    request_timeout_s: float = Field(default=10.0, ge=1.0, le=300.0, description="How long one request to a broker may take.")
    silence_s: float = Field(default=20.0, gt=0, description="Polling time without an answer for a partition, then a rebuild.")
    stall_s: float = Field(default=20.0, gt=0, description="Polling time without progress on a partition that has more, then a rebuild.")
    stall_rebuilds: int = Field(default=3, ge=1, description="Rebuilds without progress after which PartitionStalled is raised.")
    refresh_s: float = Field(default=60.0, gt=0, description="How often to look for new partitions and recreated topics.")
    on_unreadable: Literal["skip", "fail"] = Field(
        default="skip", description="What to do with bytes that are no records: pass over them, counted as a gap, or stop there."
    )
    max_unreadable: int = Field(
        default=10_000, ge=1, description="Offsets tried one by one where not even a batch's header can be read; then the stream stops."
    )

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(broker_address(server)) for server in value)


def connection_options(config: KafkaConfig, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The options that every kafka-python client takes. Raises ConfigurationError for an environment variable that is not set."""
    request_timeout_ms = int(config.request_timeout_s * 1000)
    options: dict[str, Any] = {
        "bootstrap_servers": list(config.bootstrap_servers),
        "client_id": config.client_id,
        "request_timeout_ms": request_timeout_ms,
        "bootstrap_timeout_ms": request_timeout_ms,
        "reconnect_backoff_max_ms": 2000,
    }
    return {**options, **security_options(config, environ)}


class Closing:
    """What holds connections: they are closed where its `with` block ends."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def new_consumer(config: KafkaConfig, group_id: str | None = None) -> Consumer:
    """A consumer that does nothing by itself: bytes as they came, no reset, no commits, no topics made, each answer complete.

    Full fetches (no incremental sessions) make every answer carry every partition's high watermark, also those without news.
    Raises BrokerUnavailable or ConfigurationError.
    """
    return _made(
        KafkaConsumer,
        config,
        group_id=group_id,
        auto_offset_reset="none",
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        enable_incremental_fetch_sessions=False,
        isolation_level=config.isolation_level,
        fetch_max_bytes=config.max_poll_bytes,
        max_partition_fetch_bytes=config.max_partition_bytes,
        metrics_enabled=False,
    )


def new_producer(config: KafkaConfig, *, idempotent: bool = True, transactional_id: str | None = None) -> Producer:
    """A producer that waits for all in-sync replicas. What is too large is the broker's to say, not the client's.

    An idempotent one writes nothing twice, but after one refused record it fails every later one with the same error: make it anew then.
    One with a `transactional_id` writes what belongs together wholly or not at all; the newest one of that name is the only one that may.
    """
    return _made(
        KafkaProducer,
        config,
        acks="all",
        enable_idempotence=idempotent,
        transactional_id=transactional_id,
        max_request_size=_MAX_REQUEST_BYTES,
        max_block_ms=int(config.request_timeout_s * 500),
        delivery_timeout_ms=int(config.request_timeout_s * 3000),
        metrics_enabled=False,
    )


@contextmanager
def admin_client(config: KafkaConfig) -> Iterator[Any]:
    """A connection for questions about topics. kafka-python's errors come out as ours."""
    client = _made(KafkaAdminClient, config)
    try:
        with translating(config):
            yield client
    finally:
        client.close()


def close_producer(producer: Producer, timeout_s: float) -> None:
    """End a producer and its thread, also when the broker is gone; what was not acknowledged by then is given up."""
    try:
        producer.close(timeout=timeout_s)
    except kafka_errors.KafkaTimeoutError:
        # close() flushes first and raises there, before it has ended the sender thread
        kafka_patches.force_close(producer, timeout_s)


def _made(kind: Callable[..., Any], config: KafkaConfig, **options: object) -> Any:
    nets: list[Any] = []

    def remembered(**settings: object) -> Any:
        nets.append(KafkaNetClient(**settings))
        return nets[-1]

    connection = connection_options(config)
    require_answer(config.bootstrap_servers, connection, config.request_timeout_s)
    with translating(config):
        try:
            return kind(kafka_client=remembered, **connection, **options)
        except BaseException:
            for net in nets:
                net.close()
            raise


@contextmanager
def translating(config: KafkaConfig) -> Iterator[None]:
    """Turn kafka-python's errors into ours."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise translated(error, config) from error


def translated(error: Exception, config: KafkaConfig) -> MemstreamError:
    """The error of ours that says to the operator what `error` of kafka-python means."""
    brokers = ",".join(config.bootstrap_servers)
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return AccessRefused(f"{brokers} does not let us in ({error}); check kafka.sasl_*")
    if isinstance(error, _NOT_ALLOWED):
        return ConfigurationError(f"{brokers} refused us ({error}); check kafka.security_protocol, kafka.sasl_* and the rights")
    if isinstance(error, _NOT_POSSIBLE):
        return ConfigurationError(f"{brokers}: {error}")
    if getattr(error, "retriable", False):
        # kafka-python tries a refused password again like any other failure, and mostly sees but the closed connection
        refused = ", and kafka.sasl_*: a broker that does not know the password hangs up" if config.sasl_mechanism else ""
        return BrokerUnavailable(f"no answer from {brokers} ({error}); check kafka.bootstrap_servers, that the broker runs{refused}")
    return StreamError(f"{brokers}: {error}")


def is_refusal(error: Exception) -> bool:
    """Whether a broker answered that it will never take this: the same request would be refused again."""
    return isinstance(error, kafka_errors.BrokerResponseError) and not error.retriable


def to_kafka(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)


def of_kafka(partition: TopicPartition) -> Partition:
    return Partition(partition.topic, partition.partition)
