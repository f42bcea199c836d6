"""The replica that knows most answers; when it cannot, the next one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ray.exceptions import RayActorError

from actors.config import StreamConfig
from actors.messages import Answer, Knowledge, Phase, Question, ReplicaStatus
from actors.query import NoReplica, QueryActor, knowing_most


class Replica:
    """Answers with its number, or is dead."""

    def __init__(self, number: int, dead: bool = False) -> None:
        self.number, self.dead, self.asked = number, dead, 0

    def answer(self, question: Question, timeout_s: float) -> Answer:
        self.asked += 1
        if self.dead:
            raise RayActorError
        nothing = Knowledge(
            stream="test",
            replica=self.number,
            version=0,
            update_number=0,
            position={},
            watermark_ms=None,
            applied=0,
            complete_up_to_ms=None,
            staleness_s=None,
        )
        return Answer(text="yes", finish_reason="stop", prompt_tokens=1, completion_tokens=1, knowledge=nothing, seconds=0.0)


class Asking(QueryActor):
    def __init__(self, config: StreamConfig, replicas: list[Replica], known: list[ReplicaStatus]) -> None:
        super().__init__(config, replicas)  # type: ignore[arg-type]
        self._known = known

    def statuses(self) -> list[ReplicaStatus]:
        return self._known


def status(replica: int, phase: Phase = Phase.RUNNING, watermark_ms: int | None = 5, applied: int = 1, running: int = 0) -> ReplicaStatus:
    counts = {"applied": applied}
    return ReplicaStatus(replica=replica, phase=phase, watermark_ms=watermark_ms, counts=counts, running_answers=running)


@pytest.mark.parametrize(
    ("statuses", "order"),
    [
        ([status(0, watermark_ms=5), status(1, watermark_ms=6)], [1, 0]),
        ([status(0, watermark_ms=None), status(1, watermark_ms=0)], [1, 0]),
        ([status(0, watermark_ms=6, applied=1), status(1, watermark_ms=5, applied=9)], [0, 1]),
        ([status(0, applied=1), status(1, applied=2)], [1, 0]),
        ([status(0, running=2), status(1, running=1)], [1, 0]),
        ([status(0, Phase.STARTING, 9), status(1, Phase.DOWN, 9), status(2, Phase.FAILED), status(3, Phase.DRAINED, 9)], [2]),
        ([status(0, Phase.WAITING), status(1, Phase.SERVING), status(2, Phase.DRAINING)], [0, 1, 2]),
    ],
)
def test_most_known_first(statuses: list[ReplicaStatus], order: list[int]) -> None:
    assert [each.replica for each in knowing_most(statuses)] == order


def test_the_next_one_answers_when_the_best_is_dead(config_with: Callable[..., StreamConfig]) -> None:
    replicas = [Replica(0), Replica(1, dead=True)]
    asking = Asking(config_with(), replicas, [status(0, applied=1), status(1, applied=2)])
    assert asking.ask(Question.of("Who?")).knowledge.replica == 0
    assert [replica.asked for replica in replicas] == [1, 1]


def test_nobody_left_is_said_with_each_ones_reason(config_with: Callable[..., StreamConfig]) -> None:
    dead = Asking(config_with(), [Replica(0, dead=True)], [status(0)])
    with pytest.raises(NoReplica, match="replica 0: RayActorError"):
        dead.ask(Question.of("Who?"))
    starting = ReplicaStatus(replica=0, phase=Phase.STARTING, problem="restoring")
    with pytest.raises(NoReplica, match="replica 0 starting: restoring"):
        Asking(config_with(), [Replica(0)], [starting]).ask(Question.of("Who?"))
