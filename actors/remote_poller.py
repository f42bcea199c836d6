"""A poller in a process of its own, as its replica sees it: replaced when it hangs or dies, and led past what kills it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.careful import MOST_IN_A_ROW, Careful, Place, Step, pause_s
from actors.config import StreamConfig
from actors.handles import here, reason_of, result_of
from actors.messages import Learnable, Polled
from actors.poller import Poller, ReadOne
from pipeline.decode import dead_letter
from pipeline.errors import PartitionStalled, StreamError
from pipeline.fetched import OVERHEAD_BYTES, Gap, GapReason, topic_ids_after
from pipeline.records import DeadLetter, Partition, Reason, Record

log = logging.getLogger(__name__)

PollerActor = ray.remote(Poller)


class RemotePoller:
    """A poller in a process of its own, replaced when it hangs or dies. One batch is read ahead while the last one is learned.

    After a death the next process is led step by step (`actors.careful`), with growing pauses, until whatever was being read has been
    passed; what kills two at one place is passed over: a dead letter if the record could be read, else a gap as `kafka.on_unreadable` says.

    Called by the ingest thread and, for `flush` and `commit`, by the one that saves.

    NOTHING-SILENT: dead letters that are not known to be acknowledged are kept here too, and a new process sends them again.
    """

    def __init__(self, config: StreamConfig, positions: Mapping[str, int], owns_lineage: bool, topic_ids: Mapping[str, str]) -> None:
        self._config, self._owns_lineage = config, owns_lineage
        self._positions, self._topic_ids = dict(positions), dict(topic_ids)
        self._letters: list[DeadLetter] = []
        self._letter_bytes = 0
        self._ahead: Any = None
        self._lost = threading.Event()
        self._careful: Careful | None = None
        self._undecoded: ReadOne | None = None
        self._deaths_in_a_row = 0
        self._opened = False
        self._not_before_s = 0.0
        self.deaths = 0
        """Processes that died or hung."""
        self._flushing, self._keeping = threading.Lock(), threading.Lock()
        self._actor = self._start()

    def _start(self) -> Any:
        self._opened = False
        # It costs no core of its own, since polling waits for the network most of the time; and it runs where its replica does: files with
        # secrets are read there.
        return PollerActor.options(num_cpus=0, scheduling_strategy=here()).remote(
            self._config, self._positions, self._owns_lineage, self._topic_ids
        )

    def poll(self, max_bytes: int, timeout_s: float) -> Polled:
        """As `Poller.poll`; raises PartitionStalled, after which the next call goes on, where the process hung or died.

        Raises StreamError where it dies before it reads, or `kafka.on_unreadable: fail` forbids to pass over what kills it.
        """
        self.renew()
        if (wait_s := self._not_before_s - time.monotonic()) > 0:
            raise PartitionStalled(f"the process that reads the topics died {self._deaths_in_a_row} times in a row; next in {wait_s:.0f} s")
        if self._letter_bytes > self._config.dead_letters.max_pending_bytes:
            # BOUNDED; and before anything is taken: a batch that was taken is always handed over.
            self.flush(self._config.dead_letters.flush_timeout_s)
        if self._careful is not None:
            return self._poll_carefully(self._careful, timeout_s)
        ahead, self._ahead = self._ahead, None
        polled: Polled = self._get(ahead or self._actor.poll.remote(max_bytes, timeout_s))
        self._went_on(polled.positions, polled.items)
        self._deaths_in_a_row = 0
        for item in polled.items:
            if isinstance(item, DeadLetter):
                self._keep(item)
        self._ahead = self._actor.poll.remote(max_bytes, timeout_s)
        return polled

    def _went_on(self, positions: Mapping[str, int], items: Iterable[Learnable]) -> None:
        """ONE-STATE: the topics are those of the positions; what the process has read ahead may be in others already."""
        self._positions, self._topic_ids = dict(positions), topic_ids_after(self._topic_ids, items)

    def reject(self, letter: DeadLetter) -> None:
        """As `Poller.reject`, without waiting: `flush` does."""
        self._actor.reject.remote(letter)
        self._keep(letter)  # after it was sent: a flush acknowledges what is kept here and was sent before it

    def flush(self, timeout_s: float) -> None:
        """As `Poller.flush`."""
        with self._flushing:
            count = len(self._letters)
            self._get(self._actor.flush.remote(timeout_s))
            with self._keeping:
                acknowledged, self._letters[:count] = self._letters[:count], []
                self._letter_bytes -= sum(map(_letter_bytes, acknowledged))

    def commit(self, positions: Mapping[str, int], metadata: str) -> None:
        """As `Poller.commit`."""
        self._get(self._actor.commit.remote(positions, metadata))

    def close(self) -> None:
        """End the process."""
        self._ahead = None
        with suppress(RayActorError, GetTimeoutError, RayTaskError):
            ray.get(self._actor.close.remote(), timeout=10)
        ray.kill(self._actor)

    def renew(self) -> None:
        """Replace the process if it was lost. By whoever polls, alone: only then has everything before `_positions` been handed over."""
        if not self._lost.is_set():
            return
        self.deaths += 1
        self._deaths_in_a_row += 1
        if self._careful is None:
            kafka = self._config.kafka
            self._careful = Careful(kafka.max_poll_bytes + 2 * kafka.max_partition_bytes + self._config.replicas.poll_bytes)
        elif self._careful.cannot_start:
            raise StreamError(
                f"the process that reads the topics ended {self._deaths_in_a_row} times before it read anything; look at this node's memory"
                " and at Ray's log of its workers"
            )
        self._not_before_s = time.monotonic() + pause_s(self._deaths_in_a_row)
        self._lost.clear()
        self._replace()

    def _replace(self) -> None:
        ray.kill(self._actor)
        self._ahead = self._undecoded = None
        actor = self._start()
        for letter in list(self._letters):
            actor.reject.remote(letter)
        self._actor = actor  # only now: a flush through it must find all letters sent

    def _keep(self, letter: DeadLetter) -> None:
        if self._owns_lineage:
            with self._keeping:
                self._letters.append(letter)
                self._letter_bytes += _letter_bytes(letter)

    def _get(self, reference: Any) -> Any:
        try:
            return result_of(reference, self._config.replicas.poll_hung_s)
        except (RayActorError, GetTimeoutError) as error:
            self._lost.set()
            raise PartitionStalled(f"the process that reads the topics hung or ended and is replaced: {reason_of(error)}") from error

    # ------------------------------------------------------------------ after a death

    def _poll_carefully(self, careful: Careful, timeout_s: float) -> Polled:
        guilty = careful.convicted
        if guilty is not None:
            return self._passed_over(careful, guilty)
        # NOTHING-SILENT: what was read is kept until it is decoded, whatever that raises.
        read = self._undecoded = self._undecoded or self._read_one(careful, timeout_s)
        items: list[Learnable] = []
        for item in read.items:
            if isinstance(item, Record):
                items.append(self._decoded(careful, item))
                careful.passed(str(item.partition), item.size_bytes + OVERHEAD_BYTES)
            else:
                items.append(item)
        self._undecoded = None
        for partition in read.at_end:
            careful.reached_end(partition)
        if read.items:
            self._deaths_in_a_row = 0
        self._went_on(read.positions, items)
        if careful.is_over(self._positions):
            log.warning("nothing kills the process that reads the topics any more; it reads ahead again")
            self._careful = None
        return self._handed(items, read)

    def _read_one(self, careful: Careful, timeout_s: float) -> ReadOne:
        """First it connects: one that dies at that has met no record."""
        partition = careful.next_partition(self._positions) if self._opened else None
        place = Place(Step.OPEN, "", 0) if partition is None else Place(Step.READ, partition, self._positions[partition])
        read: ReadOne = self._tried(careful, place, self._actor.read_one.remote(partition, timeout_s))
        self._opened = True
        careful.acquit(place)
        return read

    def _decoded(self, careful: Careful, record: Record) -> Learnable:
        """The record, decoded in the other process, which may not survive that; a dead letter was sent there."""
        careful.record = record
        place = Place(Step.DECODE, str(record.partition), record.offset)
        item: Learnable = self._tried(careful, place, self._actor.decode_one.remote(record))
        careful.acquit(place)
        if isinstance(item, DeadLetter):
            self._keep(item)
        return item

    def _tried(self, careful: Careful, place: Place, reference: Any) -> Any:
        try:
            return self._get(reference)
        except PartitionStalled:
            if self._lost.is_set():
                careful.accuse(place)
                log.error("the process that reads the topics died as it was to %s", place)
            raise

    def _passed_over(self, careful: Careful, guilty: Place) -> Polled:
        """What killed two processes is left behind, and the next one begins after it."""
        partition, first = Partition.parse(guilty.partition), self._positions[guilty.partition]
        record, items = careful.record, list[Learnable]()
        if careful.passed_over == MOST_IN_A_ROW:
            raise StreamError(
                f"{partition}: whatever is read ends the process that reads it, {MOST_IN_A_ROW} times with nothing good between, now at"
                f" {guilty.offset}: this node has too little memory, or something else kills its processes"
            )
        if guilty.step is Step.DECODE and record is not None and (record.partition, record.offset) == (partition, guilty.offset):
            end = record.end
            if record.offset > first:
                items.append(Gap(partition=partition, first=first, end=record.offset, reason=GapReason.ABSENT))
            items.append(dead_letter(record, Reason.KILLS_READER, "processes that decoded it died or hung, again and again"))
        else:
            end = self._end_of_batch(guilty)
            items.append(Gap(partition=partition, first=first, end=end, reason=GapReason.UNREADABLE))
        log.error("%s: the offsets from %d to %d killed who was to %s, and are passed over", partition, first, end - 1, guilty.step)
        careful.acquit(guilty)
        careful.passed_over += 1
        self._positions = {**self._positions, guilty.partition: end}
        self._replace()
        for item in items:
            if isinstance(item, DeadLetter):
                self.reject(item)
        return self._handed(items, None)

    def _end_of_batch(self, guilty: Place) -> int:
        """Where the batch ends that cannot even be read: by its header, looked at without unfolding it; else behind the one record."""
        if self._config.kafka.on_unreadable == "fail":
            raise StreamError(
                f"{guilty.partition}: what lies at {guilty.offset} ends every process that reads it; kafka.on_unreadable: skip goes on"
            )
        try:
            end: int = self._get(self._actor.batch_end.remote(guilty.partition, guilty.offset))
        except PartitionStalled:
            if not self._lost.is_set():
                raise
            self._lost.clear()  # `_passed_over` replaces it
            return guilty.offset + 1
        return end

    def _handed(self, items: list[Learnable], read: ReadOne | None) -> Polled:
        return Polled(
            items=tuple(items),
            positions=self._positions,
            highwaters={} if read is None else read.highwaters,
            heard=frozenset() if read is None else read.heard,
            at_s=time.time() if read is None else read.at_s,
        )


def _letter_bytes(letter: DeadLetter) -> int:
    return letter.record.size_bytes + OVERHEAD_BYTES
