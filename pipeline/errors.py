"""Everything that can go wrong on the way of the data, in one tree. The model has its own in `model/errors.py`.

    MemstreamError
    ├── ConfigurationError            the configuration cannot work as it stands
    ├── StreamError                   Kafka, or what was read from it
    │   ├── BrokerUnavailable         (retriable)
    │   │   └── AccessRefused         (retriable)
    │   ├── RegistryUnavailable       (retriable)
    │   ├── PartitionStalled          (retriable)
    │   ├── ResourcesExhausted        (retriable)
    │   ├── DataLoss                  the log no longer holds what comes next
    │   └── DeadLetterUnacknowledged  (retriable)
    └── SnapshotError                 the snapshot store
        ├── StoreUnavailable          (retriable)
        ├── NoSuchSnapshot            there is none of that number, or not any more
        ├── SnapshotCorrupt           a digest or a size is wrong
        │   └── SnapshotUntrusted     not signed, or by nobody that we know
        ├── SnapshotMismatch          made by a different model or pool shape
        └── StaleWriter               another writer owns this stream now

Each class says with `retriable` whether the same call may work later, and its docstring tells the operator what to do.
"""

from __future__ import annotations

from typing import ClassVar


class MemstreamError(Exception):
    """Base of all errors that memstream raises on purpose."""

    retriable: ClassVar[bool] = False


class ConfigurationError(MemstreamError):
    """The configuration cannot work. The message names the key; correct it and start again."""


class StreamError(MemstreamError):
    """Reading from or writing to Kafka failed."""


class BrokerUnavailable(StreamError):
    """No broker answers. Check `kafka.bootstrap_servers`; the stream waits and goes on by itself when it is back."""

    retriable = True


class AccessRefused(BrokerUnavailable):
    """A broker answers, and does not take our password, token or certificate.

    Correct `kafka.sasl_*`, `kafka.ssl_*` or what they name. It is tried again, since passwords and tokens change while a stream runs: what
    `${file:PATH}` and `kafka.sasl_oauth_token_file` name is read anew each time.
    """


class RegistryUnavailable(StreamError):
    """The schema registry does not answer. Check `decode.registry`; no record is passed over, and the stream goes on when it is back."""

    retriable = True


class PartitionStalled(StreamError):
    """A partition's end moves while its position stands still.

    The consumer is rebuilt at its position; if it repeats, look at the broker.
    """

    retriable = True


class ResourcesExhausted(StreamError):
    """Memory, or files that may be open, are used up on this machine. Nothing was passed over; it is tried again. Raise its limits."""

    retriable = True


class DataLoss(StreamError):
    """The log no longer holds the next position (recreated, truncated or aged out).

    Choose `kafka.on_data_loss: earliest | latest` to go on and count the loss.
    """


class DeadLetterUnacknowledged(StreamError):
    """A dead letter was not acknowledged in time, so the position before it cannot become durable.

    Check the dead-letter topic; it is tried again.
    """

    retriable = True


class SnapshotError(MemstreamError):
    """The snapshot store could not do what was asked."""


class StoreUnavailable(SnapshotError):
    """The object store did not answer. Updates go on and the snapshot is tried again; check `snapshots.root` and its credentials."""

    retriable = True


class NoSuchSnapshot(SnapshotError):
    """There is no snapshot of that number: there never was, or `snapshots.retention` has removed it. Choose another; pin what must stay."""


class SnapshotCorrupt(SnapshotError):
    """An object's size, rows or SHA-256 differ from the manifest's. The snapshot before it is used; keep the broken one for inspection."""


class SnapshotUntrusted(SnapshotCorrupt):
    """A manifest without a signature, or with one by none of `snapshots.signing_keys`. It is not used: whoever can write there made it.

    If it is your own, from before there were keys, `memstream snapshots restore --epoch N --unsigned` takes it over.
    """


class SnapshotMismatch(SnapshotError):
    """The snapshot belongs to another model or pool shape. Use the model that wrote it, or another `stream` name or `snapshots.root`."""


class StaleWriter(SnapshotError):
    """A newer writer has claimed this stream, so this one stops.

    Two deployments with the same stream name and root must not run at once.
    """
