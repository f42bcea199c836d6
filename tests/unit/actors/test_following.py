"""Replicas of one stream in this process, their pollers scripted: one leads, the others follow, and they take over from each other."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from actors.config import StreamConfig
from actors.errors import LeaderLost, NotReady
from actors.feed import Chain, CommitWindow, Feed, Freshness, fed
from actors.messages import Leader, Learnable, Phase, Question, ReplicaStatus, Role
from actors.replica import Replica
from pipeline.commits import OVERHEAD_BYTES, Commit, Passed, Place
from pipeline.decode import dead_letter
from pipeline.fetched import Joined
from pipeline.records import Outcome, Reason, Record
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import NEWS, START_MS, ScriptedPoller, document, documents

SCRIPT: list[Learnable] = [
    Joined(partition=NEWS, position=0, topic_id="first"),
    *documents(8),
    document(8, "Person 3."),
    dead_letter(Record(partition=NEWS, offset=9, timestamp_ms=START_MS, value=b"{"), Reason.BAD_JSON, "no end"),
    *documents(10, 10),
]
END = 20


class Near:
    """Another replica of this process, as a leader; cut off where it is told so."""

    def __init__(self, replica: Replica, cut: set[int], number: int) -> None:
        self._replica, self._cut, self._number = replica, cut, number

    def feed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        self._look()
        return self._replica.feed(after, max_bytes, min(timeout_s, 0.05))

    def want_snapshot(self) -> None:
        self._look()
        self._replica.want_snapshot()

    def _look(self) -> None:
        if self._number in self._cut:
            time.sleep(0.01)
            raise LeaderLost("cut off")


class Deployment:
    """Some replicas that hear from each other who leads."""

    def __init__(self, config: StreamConfig, script: list[Learnable] = SCRIPT, name: str = "ours") -> None:
        self.config, self.script, self.name = config, script, name
        self.replicas: dict[int, Replica] = {}
        self.pollers: list[ScriptedPoller] = []
        self.cut: set[int] = set()
        self.deaf: set[int] = set()
        self.upto = END

    def start(self, number: int) -> Replica:
        self.replicas[number] = Replica(self.config, number, 1, self._poller, self._leader, self.name)
        return self.replicas[number]

    def _poller(self, config: StreamConfig, positions: Mapping[str, int], owns: bool, topic_ids: Mapping[str, str]) -> ScriptedPoller:
        self.pollers.append(ScriptedPoller(self.script[: self.upto + 1], self.upto, positions))
        return self.pollers[-1]

    def _leader(self, config: StreamConfig, leader: Leader) -> Near:
        return Near(self.replicas[leader.replica], self.cut, leader.replica)

    def statuses(self) -> list[ReplicaStatus]:
        found = [replica.status() for replica in self.replicas.values()]
        leaders = [Leader(each.replica, each.generation) for each in found if each.role is Role.LEADER]
        for number in set(self.replicas) - self.deaf:
            self.replicas[number].hear(max(leaders, key=lambda leader: leader.generation, default=None))
        return found

    def wait(self, enough: Callable[[dict[int, ReplicaStatus]], bool]) -> dict[int, ReplicaStatus]:
        for _ in range(2000):
            found = {status.replica: status for status in self.statuses()}
            if enough(found):
                return found
            time.sleep(0.01)
        raise AssertionError(found)

    def lead(self, number: int, after: int | None = None) -> None:
        self.wait(lambda found: found[number].role is Role.FOLLOWER)
        self.replicas[number].lead(after)
        self.wait(lambda found: found[number].role is Role.LEADER)

    def all_at(self, offset: int) -> dict[int, ReplicaStatus]:
        return self.wait(lambda found: all(each.position == {"news/0": offset} and each.caught_up for each in found.values()))

    def drained(self) -> dict[int, ReplicaStatus]:
        """The leader first: the others take the last of it."""
        order = sorted(self.replicas, key=lambda number: self.replicas[number].status().role is not Role.LEADER)
        return {number: self.replicas[number].drain() for number in order}

    def end(self) -> None:
        for replica in self.replicas.values():
            replica._stop.set()
        for replica in self.replicas.values():
            replica.close()


@pytest.fixture
def deploy(config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Deployment]]:
    monkeypatch.setattr("actors.replica.RETRY_S", 0.02)
    monkeypatch.setattr("actors.following.FEED_WAIT_S", 0.05)
    made: list[Deployment] = []

    def deployed(count: int = 2, name: str = "ours", **sections: object) -> Deployment:
        made.append(Deployment(config_with(replicas={"count": count}, **sections), name=name))
        return made[-1]

    yield deployed
    for each in made:
        each.end()


def undisturbed(deploy: Callable[..., Deployment]) -> ReplicaStatus:
    alone = deploy(count=1, stream="alone")
    alone.start(0)
    alone.all_at(END)
    return alone.drained()[0]


def same(*statuses: ReplicaStatus) -> bool:
    known = [(each.memory_sha256, each.position, each.counts, each.update_number, each.watermark_ms) for each in statuses]
    return known[0][0] is not None and all(each == known[0] for each in known)


def test_followers_know_what_the_leader_knows_and_compute_nothing(deploy: Callable[..., Deployment]) -> None:
    ours = deploy(count=3)
    for number in range(3):
        ours.start(number)
    ours.lead(1)
    found = ours.all_at(END)
    assert {number: each.role for number, each in found.items()} == {0: "follower", 1: "leader", 2: "follower"}
    assert [found[number].forward_passes for number in range(3)] == [0, found[1].update_number, 0]
    assert ours.wait(lambda found: found[0].staleness_s is not None)[0].behind_commits == 0
    assert ours.replicas[2].answer(Question.of("Who is person 3?", 5)).knowledge.position == {"news/0": END}
    assert same(*ours.drained().values(), undisturbed(deploy))
    assert SnapshotStore(ours.config.snapshots, "test").epochs() == [1]


def test_a_follower_that_starts_late_catches_up_from_a_snapshot_that_is_made_for_it(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is configured to be saved, and the window holds the last three commits alone."""
    monkeypatch.setattr("actors.feed.MOST_COMMITS", 3)
    ours = deploy()
    ours.start(0)
    ours.lead(0)
    ours.all_at(END)
    assert SnapshotStore(ours.config.snapshots, "test").epochs() == []
    ours.start(1)
    found = ours.all_at(END)
    assert SnapshotStore(ours.config.snapshots, "test").epochs() == [1]
    assert found[1].forward_passes == 0
    assert same(*ours.drained().values(), undisturbed(deploy))


def with_a_leader_apart(deploy: Callable[..., Deployment]) -> Deployment:
    """Both know six records; then the leader reads on and nobody hears of it, nor it of anybody."""
    ours = deploy()
    ours.upto = 6
    for number in (0, 1):
        ours.start(number)
    ours.lead(0)
    ours.all_at(6)
    ours.deaf, ours.cut = {0}, {0}
    ours.pollers[0]._end, ours.pollers[0]._items = END, list(SCRIPT[7:])
    ours.wait(lambda found: found[0].position == {"news/0": END})
    return ours


def test_a_follower_goes_on_where_its_leader_is_lost_and_the_old_leader_follows_it(deploy: Callable[..., Deployment]) -> None:
    """As a leader that was suspended does: it knows more than the new one did, which is nobody's knowledge now."""
    ours = with_a_leader_apart(deploy)
    ours.upto = END
    ours.pollers[0].may_go_on.clear()
    ours.lead(1, after=1)
    assert ours.wait(lambda found: found[1].position == {"news/0": END})[1].generation == 2
    ours.pollers[0].may_go_on.set()
    ours.deaf, ours.cut = set(), set()
    found = ours.wait(lambda found: found[0].role is Role.FOLLOWER and found[0].position == {"news/0": END} and found[0].answers)
    assert found[0].generation == 2
    assert "close" in ours.pollers[0].log and not any(each.startswith("commit") for each in ours.pollers[0].log)
    ours.all_at(END)
    assert same(*ours.drained().values(), undisturbed(deploy))


def test_what_a_replaced_writer_knew_alone_is_not_answered_from(deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = with_a_leader_apart(deploy)
    ours.lead(1, after=1)
    monkeypatch.setattr(SnapshotStore, "latest", lambda self: None)
    ours.deaf = set()
    found = ours.wait(lambda found: found[0].loading)
    assert found[0].role is Role.FOLLOWER and not found[0].answers
    with pytest.raises(NotReady, match="it restores, since its writer was replaced"):
        ours.replicas[0].answer(Question.of("Who?", 2))


def test_one_writer_a_stale_leader_that_would_save_finds_out_by_the_store(deploy: Callable[..., Deployment]) -> None:
    """It hears nothing of the others: the claim alone tells it, before it writes."""
    ours = deploy(snapshots={"every_updates": 1})
    ours.upto = 6
    for number in (0, 1):
        ours.start(number)
    ours.lead(0)
    ours.all_at(6)
    ours.wait(lambda found: all(each.epoch for each in found.values()))
    ours.deaf = {0}
    ours.upto = END
    ours.lead(1, after=1)
    before = SnapshotStore(ours.config.snapshots, "test").epochs()
    ours.pollers[0]._end, ours.pollers[0]._items = END, list(SCRIPT[7:])
    ours.wait(lambda found: found[0].role is Role.FOLLOWER)
    written = [
        SnapshotStore(ours.config.snapshots, "test").load(epoch).generation
        for epoch in SnapshotStore(ours.config.snapshots, "test").epochs()
    ]
    assert set(written[len(before) :]) <= {2}
    ours.deaf = set()
    ours.all_at(END)
    assert same(*ours.drained().values(), undisturbed(deploy))


def test_another_deployment_of_the_stream_ends_this_one(deploy: Callable[..., Deployment]) -> None:
    """Nobody takes over from a stranger, whoever is asked."""
    ours, theirs = deploy(), deploy(name="theirs")
    for number in (0, 1):
        ours.start(number)
    ours.lead(0)
    ours.all_at(END)
    theirs.start(0)
    theirs.lead(0)
    ours.replicas[0].want_snapshot()
    found = ours.wait(lambda found: found[0].phase is Phase.FAILED)
    assert "StaleWriter: generation 2 has claimed" in str(found[0].problem)
    ours.replicas[1].lead(1)
    found = ours.wait(lambda found: found[1].phase is Phase.FAILED)
    assert "generation 2 of another deployment has claimed" in str(found[1].problem)
    assert theirs.replicas[0].status().role is Role.LEADER


def test_nothing_silent_the_next_leader_sends_the_dead_letters_that_nobody_acknowledged(deploy: Callable[..., Deployment]) -> None:
    ours = deploy()
    for number in (0, 1):
        ours.start(number)
    ours.lead(0)
    ours.all_at(END)
    ours.deaf, ours.cut = {0}, {0}
    ours.lead(1, after=1)
    ours.wait(lambda found: found[1].caught_up)
    assert [letter.record.offset for letter in ours.pollers[1].letters] == [9]


def test_letters_that_are_acknowledged_are_not_sent_again(deploy: Callable[..., Deployment]) -> None:
    ours = deploy()
    for number in (0, 1):
        ours.start(number)
    ours.lead(0)
    ours.all_at(END)
    ours.replicas[0].want_snapshot()
    ours.wait(lambda found: found[1].epoch == 1)
    ours.deaf, ours.cut = {0}, {0}
    ours.lead(1, after=1)
    ours.wait(lambda found: found[1].caught_up)
    assert ours.pollers[1].letters == []


def test_a_new_leader_writes_only_what_the_old_one_had_not_saved(deploy: Callable[..., Deployment]) -> None:
    ours = deploy()
    ours.upto = 6
    for number in (0, 1):
        ours.start(number)
    ours.lead(0)
    ours.all_at(6)
    if ours.replicas[0]._own.engine.kind != "blocks":
        pytest.skip("a pool is written whole")
    ours.replicas[0].want_snapshot()
    ours.wait(lambda found: found[1].epoch == 1)
    ours.deaf, ours.cut, ours.upto = {0}, {0}, END
    ours.lead(1, after=1)
    ours.wait(lambda found: found[1].position == {"news/0": END})
    ours.replicas[1].drain()
    manifest = SnapshotStore(ours.config.snapshots, "test").load(2)
    assert (manifest.generation, [entry.rows for entry in manifest.segments]) == (2, [6, 12])


def test_servers_follow_the_snapshots(deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.serving.LOOK_S", 0.05)
    ours, mirror = deploy(), deploy()
    mirror.config = mirror.config.model_copy(update={"replicas": mirror.config.replicas.model_copy(update={"mode": "serve"})})
    mirror.start(0)
    mirror.wait(lambda found: found[0].phase is Phase.SERVING)
    ours.start(0)
    ours.lead(0)
    ours.all_at(END)
    ours.replicas[0].want_snapshot()
    found = mirror.wait(lambda found: found[0].position == {"news/0": END} and found[0].answers)
    assert (found[0].role, found[0].epoch, found[0].memory_sha256) == (Role.SERVER, 1, ours.drained()[0].memory_sha256)
    assert mirror.replicas[0].answer(Question.of("Who?", 2)).knowledge.applied == 18


# ---------------------------------------------------------------------- the window and the chain


def commit(number: int, generation: int = 1) -> Commit:
    return Commit(number=number, generation=generation, change=Passed(partition=NEWS, end=number + 1, outcome=Outcome.FILTERED))


def numbers(commits: tuple[Commit, ...] | None) -> list[int] | None:
    return None if commits is None else [each.number for each in commits]


def test_bounded_a_window_keeps_the_last_commits_by_their_bytes() -> None:
    window = CommitWindow(3 * OVERHEAD_BYTES)
    assert window.after(0, 1) == ()
    for number in range(5, 10):
        window.add(commit(number))
    assert window.size_bytes == 3 * OVERHEAD_BYTES
    assert numbers(window.after(6, 1 << 20)) is None
    assert numbers(window.after(7, 1 << 20)) == [7, 8, 9]
    assert numbers(window.after(7, 0)) == [7] and numbers(window.after(8, 2 * OVERHEAD_BYTES)) == [8, 9]
    assert window.after(10, 1 << 20) == ()
    window.hold(60)
    for number in range(10, 30):
        window.add(commit(number))
    assert window.size_bytes == 12 * OVERHEAD_BYTES
    window.add(commit(40))  # what does not go on from it leads nowhere
    assert numbers(window.after(40, 1)) == [40] and window.after(29, 1) is None


def test_a_window_of_nothing_keeps_nothing() -> None:
    window = CommitWindow(0)
    window.add(commit(0))
    assert window.size_bytes == 0


def test_a_leader_tells_those_who_are_behind_from_those_who_are_apart() -> None:
    window = CommitWindow(3 * OVERHEAD_BYTES)
    for number in range(10, 20):
        window.add(commit(number, 2))
    feed = Feed(chain=Chain(generation=1).handed_over(Place(1, 10), 2), head=20, freshness=Freshness())
    found = {
        place: fed(feed, window, place, 1 << 20, 0.0)
        for place in (Place(2, 18), Place(1, 10), Place(1, 11), Place(0, 0), Place(0, 3), Place(2, 20), Place(2, 21))
    }
    assert numbers(found[Place(2, 18)].commits) == [18, 19] and found[Place(2, 20)] == replace(feed, commits=())
    assert {place.commits: each.gap for place, each in found.items() if each.gap} == {
        10: "behind",
        11: "apart",
        0: "behind",
        3: "apart",
        21: "apart",
    }


def test_a_feed_travels() -> None:
    feed = Feed(chain=Chain(generation=2, ends=(Place(1, 9),)), head=9, freshness=Freshness(complete=(9, 1.5)), commits=(commit(8),))
    back: Feed = pickle.loads(pickle.dumps(feed, protocol=5))
    assert (back.chain, back.head, back.freshness, numbers(back.commits)) == (feed.chain, 9, feed.freshness, [8])
