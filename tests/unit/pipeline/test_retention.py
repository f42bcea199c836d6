"""What is kept, what goes, and when; by the store's clock, which these tests move."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import NoSuchSnapshot, SnapshotError, StaleWriter
from pipeline.snapshots import collector as collecting
from pipeline.snapshots import survey, writer
from pipeline.snapshots.cache import prune, segment_cache
from pipeline.snapshots.collector import Collected, Collector
from pipeline.snapshots.config import RetentionConfig, SnapshotConfig
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.pins import Pins
from pipeline.snapshots.restoring import restore
from pipeline.snapshots.retention import Dated, kept
from tests.doubles.snapshots import Clock, Stream, in_memory, verified

FEW = RetentionConfig(last=2, hourly=0, daily=0, garbage_after_s=3600)
HOUR_S = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    made = Clock()
    monkeypatch.setattr(writer, "now", made.now)
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def config() -> SnapshotConfig:
    return in_memory()


@pytest.fixture
def stream(clock: Clock, config: SnapshotConfig) -> Stream:
    return Stream(config, clock=clock)


def save(stream: Stream, count: int = 1) -> None:
    for _ in range(count):
        stream.learn()
        stream.save()


def collector(stream: Stream, retention: RetentionConfig = FEW) -> Collector:
    return Collector(stream.store, retention)


# -------------------------------------------------------------------- which are kept


def made(*minutes: int) -> list[Dated]:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return [Dated(number, begin + timedelta(minutes=minute)) for number, minute in enumerate(minutes, 1)]


def test_months_of_snapshots_each_five_minutes_leave_a_bounded_number() -> None:
    why = kept(made(*range(0, 90 * 24 * 60, 5)), RetentionConfig())
    assert len(why) <= 5 + 24 + 14
    assert [list(why.values()).count(each) for each in ("last", "hourly", "daily")] == [5, 23, 13]
    assert max(why) == 90 * 24 * 12


def test_what_is_kept_is_never_again_what_was_not() -> None:
    """Applied after each snapshot or only now and then, the same ones are left."""
    config, often = RetentionConfig(last=2, hourly=5, daily=3), set[int]()
    snapshots = made(*range(0, 6 * 24 * 60, 25))
    for snapshot in snapshots:
        often = set(kept([each for each in snapshots if each.epoch in often or each is snapshot], config))
    assert often == set(kept(snapshots, config))


def test_a_stream_that_stood_still_loses_nothing() -> None:
    assert list(kept(made(0, 60, 120, 60 * 24 * 300), RetentionConfig(last=2, hourly=4, daily=0))) == [4, 3, 2, 1]


def test_all_may_be_kept() -> None:
    assert len(kept(made(*range(100)), RetentionConfig(keep_all=True))) == 100


# -------------------------------------------------------------------- two phases


def test_a_snapshot_goes_at_once_and_its_objects_after_they_have_waited(stream: Stream, clock: Clock) -> None:
    save(stream)
    stream.forget(stream.updates)
    save(stream, 2)
    first = set(stream.store.load(1).objects)
    one = collector(stream).collect(stream.generation)
    assert (one.expired, one.removed, one.waiting, stream.store.epochs()) == ((1,), (), 3, [2, 3])
    for _ in range(3):
        clock.pass_(HOUR_S / 4)
        assert collector(stream).collect(stream.generation).removed == ()
    clock.pass_(HOUR_S / 4)
    last = collector(stream).collect(stream.generation)
    assert set(last.removed) == {entry.path for entry in first}
    assert [verified(stream.store, stream.store.load(epoch))[0] for epoch in (2, 3)] == [[1], [1, 2]]


def test_marks_lie_in_the_store_and_a_writer_elsewhere_goes_on_from_them(stream: Stream, clock: Clock, config: SnapshotConfig) -> None:
    stream.learn()
    stream.store.objects.create("blocks/0000000007-0000000007-0-abcdef01.arrow", b"left by a crash")
    save(stream)
    collector(stream).collect(stream.generation)
    clock.pass_(HOUR_S)
    other = Stream(config, clock=clock)
    clock.pass_(1)
    save(other)
    assert collector(other).collect(other.generation).removed == ("blocks/0000000007-0000000007-0-abcdef01.arrow",)
    assert len(stream.store.objects.names("garbage")) == 1, "older lists are removed"


def test_a_segment_that_a_later_snapshot_names_stays_when_the_one_that_wrote_it_goes(stream: Stream, clock: Clock) -> None:
    stream.learn(6)
    stream.save()
    for _ in range(5):
        save(stream)
        clock.pass_(2 * HOUR_S)
        collector(stream).collect(stream.generation)
    assert stream.store.epochs() == [5, 6]
    assert verified(stream.store, stream.store.load(6))[0] == list(range(11))


def test_what_belongs_to_an_attempt_under_way_is_no_garbage_however_long_it_takes(stream: Stream, clock: Clock) -> None:
    """A command collects, with no minimum age at all, while a writer has written all but its manifest, for days."""
    save(stream, 3)
    stream.learn()
    publish, found = stream.store.publish, list[Collected]()

    def late(manifest: Manifest) -> Manifest:
        for _ in range(3):
            clock.pass_(24 * HOUR_S)
            found.append(collector(stream, FEW.model_copy(update={"garbage_after_s": 0})).collect())
        return publish(manifest)

    stream.store.publish = late  # type: ignore[method-assign]
    manifest = stream.save()
    assert [len(each.under_way) for each in found] == [3, 3, 3] and found[0].expired == (1,)
    assert verified(stream.store, manifest)[0] == [0, 1, 2, 3]


def test_what_a_failed_attempt_left_goes_once_the_next_one_is_there(stream: Stream, clock: Clock) -> None:
    save(stream)
    stream.learn()
    publish = stream.store.publish
    stream.store.publish = lost  # type: ignore[method-assign]
    with pytest.raises(SnapshotError):
        stream.save()
    left = collector(stream).unnamed()
    assert [name.partition("/")[0] for name in left] == ["blocks", "data", "data"]
    stream.store.publish = publish  # type: ignore[method-assign]
    clock.pass_(1)
    stream.save()
    assert collector(stream).collect(stream.generation).removed == ()
    clock.pass_(HOUR_S)
    assert sorted(collector(stream).collect(stream.generation).removed) == left


def lost(manifest: Manifest) -> Manifest:
    raise SnapshotError("the answer is lost")


def test_an_old_snapshot_that_is_being_read_can_be_read_to_the_end(stream: Stream, clock: Clock) -> None:
    save(stream, 3)
    reading = stream.store.load(1)
    stream.forget(stream.updates)
    save(stream, 2)
    for _ in range(4):
        collector(stream).collect(stream.generation)
        clock.pass_(HOUR_S / 5)
    assert 1 not in stream.store.epochs()
    assert verified(stream.store, reading)[0] == [0]


def test_only_the_newest_writer_collects(stream: Stream, clock: Clock, config: SnapshotConfig) -> None:
    save(stream, 4)
    newer = Stream(config, clock=clock)
    with pytest.raises(StaleWriter, match="collects nothing"):
        collector(stream).collect(stream.generation)
    assert stream.store.epochs() == [1, 2, 3, 4]
    assert collector(newer).collect(newer.generation).expired == (1, 2)


def test_the_snapshot_that_the_newest_writer_went_on_from_stays_until_it_saves(clock: Clock, config: SnapshotConfig) -> None:
    """It passed over two broken ones, which look whole to whoever does not read them."""
    stream = Stream(config, clock=clock)
    save(stream, 5)
    for epoch in (4, 5):
        damaged(stream, epoch)
    back = Stream(config, clock=clock)
    assert back.state.update_number == 3
    found = collector(back).collect()
    assert found.kept.why == {5: "last", 4: "last", 3: "restored"}
    save(back)
    assert verified(back.store, back.store.load(6))[0] == [0, 1, 2, 3]
    assert collector(back).collect(back.generation).expired == (3, 4)


def damaged(stream: Stream, epoch: int) -> None:
    path = stream.store.objects._at(stream.store.load(epoch).object("ledger.arrow").path)
    data = bytearray(stream.store.objects._fs.cat_file(path))
    data[len(data) // 2] ^= 1
    stream.store.objects._fs.pipe_file(path, bytes(data))


def test_what_is_not_whole_counts_for_nothing_and_is_left_to_be_looked_at(stream: Stream, clock: Clock) -> None:
    save(stream, 4)
    stream.store.objects.remove(stream.store.load(3).object("index.arrow").path)
    found = collector(stream).collect(stream.generation)
    assert (found.kept.why, found.kept.broken, found.expired) == ({4: "last", 2: "last"}, (3,), (1,))
    clock.pass_(2 * HOUR_S)
    save(stream, 2)
    assert set(collector(stream).collect(stream.generation).expired) == {2, 3, 4}


def test_where_nothing_is_whole_nothing_is_removed(stream: Stream, clock: Clock) -> None:
    save(stream, 4)
    for epoch in range(1, 5):
        stream.store.objects.remove(stream.store.load(epoch).object("index.arrow").path)
    for _ in range(3):
        clock.pass_(100 * HOUR_S)
        found = collector(stream).collect(stream.generation)
        assert (found.expired, found.removed, found.kept.broken) == ((), (), (1, 2, 3, 4))


def test_what_others_put_there_stays(stream: Stream, clock: Clock) -> None:
    foreign = ["SHA256SUMS", "blocks/README", "data/notes/mine.txt", "epochs/copy.json", "elsewhere/x.arrow"]
    for name in foreign:
        stream.store.objects.create(name, name.encode())
    save(stream, 5)
    for _ in range(4):
        collector(stream).collect(stream.generation)
        clock.pass_(HOUR_S)
    assert set(foreign) <= set(stream.store.objects.listing())


def test_claims_probes_and_half_written_files_go_too(stream: Stream, clock: Clock, config: SnapshotConfig) -> None:
    for name in ("generations/.probe-0123", "epochs/.00000001.json.0123.tmp"):
        stream.store.objects.create(name, name.encode())
    for _ in range(3):
        stream = Stream(config, clock=clock)
    clock.pass_(1)
    save(stream)
    for _ in range(2):
        collector(stream).collect(stream.generation)
        clock.pass_(HOUR_S)
    assert stream.store.objects.names("generations") == ["00000004.json"]
    assert stream.store.objects.names("epochs") == ["00000001.json"]


def test_a_backlog_is_worked_off_in_bounded_steps(stream: Stream, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MOST_READ", 5)
    monkeypatch.setattr(collecting, "MOST_REMOVED", 4)
    save(stream, 23)
    cleaning = collector(stream)
    runs = [cleaning.collect(stream.generation)]
    while runs[-1].unfinished:
        runs.append(cleaning.collect(stream.generation))
    assert max(len(run.expired) for run in runs) <= 4 and stream.store.epochs() == [22, 23]
    swept = 0
    for _ in range(2):
        clock.pass_(HOUR_S)
        while (found := cleaning.collect(stream.generation)).removed:
            assert len(found.removed) <= 4
            swept += len(found.removed)
    assert swept > 40 and cleaning.unnamed() == []


def test_nothing_to_do_writes_nothing(stream: Stream) -> None:
    save(stream, 2)
    before = stream.store.objects.listing()
    collector(stream).collect(stream.generation)
    assert stream.store.objects.listing() == before


def test_a_forged_list_removes_nothing_that_is_named_or_young(stream: Stream, clock: Clock) -> None:
    save(stream, 3)
    stream.store.objects.create("blocks/0000000007-0000000007-0-abcdef01.arrow", b"young")
    names = dict.fromkeys(stream.store.objects.listing(), 0.0)
    forged = {"made_at": "2020-01-01T00:00:00Z", "by": "x", "token": "x", "expired": [3], "marked": names}
    clock.pass_(60)
    stream.store.objects.create("garbage/zz.json", json.dumps(forged).encode())
    found = collector(stream).collect(stream.generation)
    assert (found.expired, found.removed) == ((1,), ())
    assert verified(stream.store, stream.store.load(3))[0] == [0, 1, 2]
    stream.store.objects.create("garbage/zzz.json", b"[" * 5000)
    collector(stream).collect(stream.generation)


# -------------------------------------------------------------------- pins


def test_a_pinned_snapshot_stays_until_it_is_unpinned(stream: Stream, clock: Clock) -> None:
    save(stream, 2)
    pins = Pins(stream.store.objects)
    assert pins.pin(1, "before the election") and not pins.pin(1)
    stream.forget(stream.updates)
    save(stream, 4)
    for _ in range(3):
        collector(stream).collect(stream.generation)
        clock.pass_(HOUR_S)
    assert stream.store.epochs() == [1, 5, 6] and verified(stream.store, stream.store.load(1))[0] == [0]
    assert pins.all()[1].note == "before the election"
    assert pins.unpin(1) and not pins.unpin(1)
    collector(stream).collect(stream.generation)
    assert stream.store.epochs() == [5, 6]
    with pytest.raises(NoSuchSnapshot, match="there are"):
        pins.pin(1)
    assert pins.epochs() == set()


@pytest.mark.parametrize("moment", ["listing", "create", "remove"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_pin_and_a_retention_at_the_same_time_never_both_win(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, moment: str, at: int
) -> None:
    """Whoever pins while retention runs, before a call of its to the store: pinned and there, or refused."""
    save(stream, 4)
    objects, calls, won = stream.store.objects, [0], list[bool]()
    whole: Callable[..., object] = getattr(objects, moment)

    def meanwhile(*args: object) -> object:
        calls[0] += 1
        if calls[0] == at:
            monkeypatch.undo()
            try:
                won.append(Pins(objects).pin(1))
            except SnapshotError:
                won.append(False)
        return whole(*args)

    monkeypatch.setattr(objects, moment, meanwhile)
    collector(stream).collect(stream.generation)
    monkeypatch.undo()
    for each in won:
        assert each == (1 in stream.store.epochs()) == (1 in Pins(objects).epochs())


# -------------------------------------------------------------------- what lies on this machine


def test_segments_kept_on_this_machine_go_with_the_snapshots(stream: Stream, clock: Clock, tmp_path: Path) -> None:
    cache = segment_cache(stream.store.url)
    for _ in range(6):
        stream.forget(stream.updates)
        save(stream)
    assert len(list(cache.iterdir())) == 6
    named = {entry.sha256 for epoch in (5, 6) for entry in stream.store.load(epoch).segments}
    assert prune(cache, named) == 0, "what was asked for just now may be in use"
    assert prune(cache, named, unused_s=-1) == 4
    assert {path.stem for path in cache.iterdir()} == named
    assert verified(stream.store, stream.store.load(6))[0] == [5]


# -------------------------------------------------------------------- going back


def test_a_snapshot_that_was_restored_outlives_the_one_it_came_from(stream: Stream, clock: Clock, config: SnapshotConfig) -> None:
    save(stream, 3)
    base = stream.store.load(1)
    again = restore(Stream(config, clock=clock).store, base, {})
    assert (again.epoch, again.restored_from, again.objects) == (4, 1, base.objects)
    with pytest.raises(StaleWriter):
        stream.save()
    back = Stream(config, clock=clock)
    assert back.state.update_number == 1
    save(back, 4)
    for _ in range(4):
        collector(back).collect(back.generation)
        clock.pass_(HOUR_S)
    assert back.store.epochs() == [7, 8] and verified(back.store, back.store.load(8))[0] == [0, 1, 2, 3, 4]


# -------------------------------------------------------------------- for a long time


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_week_of_snapshots_each_five_minutes_has_a_bounded_store(stream: Stream, clock: Clock) -> None:
    """2,000 snapshots, an update each, a memory of 16 blocks: what lies there after a day is what lies there after a week."""
    sizes, objects, segments = [], [], []
    cleaning = collector(stream, RetentionConfig())
    for number in range(2000):
        clock.pass_(300)
        stream.learn()
        segments.append(len(stream.save().segments))
        cleaning.collect(stream.generation)
        if number % 50 == 49:
            seen = stream.store.objects.listing()
            sizes.append(sum(each.size_bytes for each in seen.values()))
            objects.append(len(seen))
            prune(segment_cache(stream.store.url), (), unused_s=-1)  # whose time is this machine's
    print({50 * each: (sizes[each - 1], objects[each - 1], segments[50 * each - 1]) for each in (1, 6, 12, 20, 30, 40)})
    assert max(segments) < 30 and max(objects) < 400
    assert max(sizes[20:]) < 1.5 * max(sizes[6:12])
    assert len(stream.store.epochs()) <= 5 + 24 + 14
    assert verified(stream.store, stream.store.load(2000))[0] == list(range(1984, 2000))
