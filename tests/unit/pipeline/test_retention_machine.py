"""KEPT-IS-WHOLE, whatever comes in whichever order: retention, garbage, merging, pins, restores, crashes, readers, stale writers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.errors import SnapshotError, StaleWriter, StoreUnavailable
from pipeline.snapshots import writer
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.config import RetentionConfig
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.pins import Pins
from pipeline.snapshots.restoring import restore
from tests.doubles.snapshots import Clock, ClockedStore, Stream, in_memory, verified

AGE_S = 3600.0
RETENTION = RetentionConfig(last=2, hourly=2, daily=1, garbage_after_s=AGE_S)


class Machine(RuleBasedStateMachine):
    """One stream; writers that come and go, a person at the command line, readers that take their time."""

    @initialize()
    def begin(self) -> None:
        os.environ["MEMSTREAM_CACHE"] = tempfile.mkdtemp(prefix="memstream-test-")
        self.clock, self.config = Clock(), in_memory()
        writer.now = self.clock.now
        self.stream = self.started()
        self.stale: list[Stream] = []
        self.held: dict[int, list[int]] = {}
        self.pinned: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "stream"):
            self.settled()
        writer.now = WHOLE_NOW

    # ------------------------------------------------------------------ what happens

    @rule(count=st.integers(1, 5))
    def learn(self, count: int) -> None:
        self.stream.learn(count)

    @rule(back=st.integers(1, 12))
    def correct(self, back: int) -> None:
        self.stream.correct(max(0, self.stream.state.update_number - back))

    @rule()
    def save(self) -> None:
        self.noted(self.stream.save())

    @rule(before=st.integers(0, 3))
    def crash_while_saving(self, before: int) -> None:
        """The store goes away after so many writes; the process dies, and another one starts."""
        store = self.objects
        store.writes_left = before
        with suppress(StoreUnavailable):
            self.noted(self.stream.save())
        store.writes_left = None
        self.restart()

    @rule()
    def an_answer_is_lost(self) -> None:
        """The manifest landed, and the writer never hears of it; it goes on."""
        whole = self.stream.store.publish

        def lost(manifest: Manifest) -> Manifest:
            self.noted(whole(manifest))
            self.clock.pass_(1)
            raise StoreUnavailable("no answer")

        self.stream.store.publish = lost  # type: ignore[method-assign]
        with suppress(StoreUnavailable):
            self.stream.save()
        self.stream.store.publish = whole  # type: ignore[method-assign]

    @rule(minutes=st.integers(0, 300))
    def save_slowly_while_a_person_collects(self, minutes: int) -> None:
        """Twice, so that what is marked the first time would go the second time."""

        def twice() -> None:
            self.collects(None)
            self.passes(minutes)
            self.collects(None)

        self.stream.learn()
        self.slowly(twice)

    @rule()
    def save_slowly_while_another_takes_over(self) -> None:
        """Between its last look and its manifest: what it publishes is an earlier state."""
        old = self.stream
        whole = old.store.publish

        def late(manifest: Manifest) -> Manifest:
            self.stream = self.started()
            return whole(manifest)

        old.store.publish = late  # type: ignore[method-assign]
        with suppress(StaleWriter):
            self.noted(old.save())
        old.store.publish = whole  # type: ignore[method-assign]
        self.stale.append(old)

    @precondition(lambda self: self.stale)
    @rule()
    def a_stale_writer_tries(self) -> None:
        with pytest.raises(StaleWriter):
            self.stale[-1].save()
        with pytest.raises(StaleWriter):
            Collector(self.stale[-1].store, RETENTION).collect(self.stale[-1].generation)

    @rule()
    def restart(self) -> None:
        self.stale.append(self.stream)
        self.stream = self.started()

    @rule()
    def tidy(self) -> None:
        self.collects(self.stream.generation)

    @rule(after=st.integers(0, 6))
    def tidy_until_the_store_goes_away(self, after: int) -> None:
        self.objects.removals_left = after
        with suppress(StoreUnavailable):
            self.collects(self.stream.generation)
        self.objects.removals_left = None

    @rule(minutes=st.integers(1, 300))
    def passes(self, minutes: int) -> None:
        self.clock.pass_(60 * minutes)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        if epochs := self.stream.store.epochs():
            epoch = data.draw(st.sampled_from(epochs))
            with suppress(SnapshotError):
                Pins(self.objects).pin(epoch)
                self.pinned.add(epoch)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(sorted(self.pinned)))
        Pins(self.objects).unpin(epoch)
        self.pinned.discard(epoch)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        if epochs := self.stream.store.epochs():
            made = restore(self.fresh().store, self.stream.store.load(data.draw(st.sampled_from(epochs))), {})
            self.clock.pass_(1)
            self.held[made.epoch] = self.held[made.restored_from or 0]
            self.restart()
            assert self.stream.updates == self.held[made.epoch]

    @rule(data=st.data(), minutes=st.integers(0, 14))
    def read_slowly_while_the_stream_goes_on(self, data: st.DataObject, minutes: int) -> None:
        """Less than an hour, in which snapshots come and go: what was begun is read to the end."""
        if epochs := self.stream.store.epochs():
            manifest = self.stream.store.load(data.draw(st.sampled_from(epochs)))
            for _ in range(4):
                self.stream.learn(2)
                self.noted(self.stream.save())
                self.collects(self.stream.generation)
                self.passes(minutes)
            assert verified(self.stream.store, manifest)[0] == self.held[manifest.epoch]

    # ------------------------------------------------------------------ what holds

    @invariant()
    def what_is_pinned_and_what_is_newest_is_there(self) -> None:
        if hasattr(self, "stream"):
            epochs = self.stream.store.epochs()
            assert self.pinned <= set(epochs)
            assert not self.held or not epochs or max(epochs) == max(self.held)

    def whole(self) -> None:
        for epoch in self.stream.store.epochs():
            assert verified(self.stream.store, self.stream.store.load(epoch))[0] == self.held[epoch], f"snapshot {epoch}"

    def settled(self) -> None:
        """In the end nothing is left but what manifests name."""
        self.stream.learn()
        self.noted(self.stream.save())
        for _ in range(3):
            self.collects(self.stream.generation)
            self.clock.pass_(AGE_S + 1)
        store = self.stream.store
        named = {entry.path for epoch in store.epochs() for entry in store.load(epoch).objects}
        there = set(store.objects.listing())
        assert {name for name in there if name.startswith(("blocks/", "data/"))} == named
        assert len(store.epochs()) <= 5 + len(self.pinned)
        assert len([name for name in there if name.startswith(("generations/", "garbage/"))]) <= len(store.epochs()) + 2

    # ------------------------------------------------------------------ how

    @property
    def objects(self) -> ClockedStore:
        assert isinstance(self.stream.store.objects, ClockedStore)
        return self.stream.store.objects

    def started(self) -> Stream:
        return Stream(self.config, clock=self.clock, capacity=12)

    def fresh(self) -> Stream:
        self.stale.append(self.stream)
        return self.started()

    def noted(self, manifest: Manifest) -> None:
        blocks = self.stream.store.read_blocks(manifest)
        self.held[manifest.epoch] = blocks.updates.tolist()

    def collects(self, generation: int | None) -> None:
        Collector(self.stream.store, RETENTION).collect(generation)
        self.whole()

    def slowly(self, meanwhile: Callable[[], object]) -> None:
        whole = self.stream.store.publish

        def late(manifest: Manifest) -> Manifest:
            meanwhile()
            return whole(manifest)

        self.stream.store.publish = late  # type: ignore[method-assign]
        self.noted(self.stream.save())
        self.stream.store.publish = whole  # type: ignore[method-assign]


WHOLE_NOW = writer.now
EXAMPLES = int(os.environ.get("MEMSTREAM_RETENTION_EXAMPLES", "6"))

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 10
)
