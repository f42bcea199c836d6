"""How running streams are shown on standard error: a table that changes in place, or plain lines where that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actors.messages import ReplicaStatus, Role
from pipeline.records import Outcome

_LINE_EVERY_S = 5.0

Shown: TypeAlias = Mapping[str, Sequence[ReplicaStatus]]
"""The replicas of each stream."""


class Progress:
    """Shows statuses as they come."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        self._said: dict[tuple[str, int], tuple[str, float]] = {}
        self._last: Shown = {}

    def show(self, streams: Shown) -> None:
        self._last = streams
        if self._live is not None:
            self._live.update(status_table(streams), refresh=True)
            return
        for stream, statuses in streams.items():
            for status in statuses:
                self._say(stream, status)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._console.print(status_table(self._last))

    def _say(self, stream: str, status: ReplicaStatus) -> None:
        """A line at each change of phase, and every few seconds while anything moves."""
        line, now_s = status_line(status), time.monotonic()
        said, said_at_s = self._said.get((stream, status.replica), ("", 0.0))
        turned = status.phase.value not in said.split(":")[0]
        if turned or (line != said and now_s - said_at_s >= _LINE_EVERY_S):
            self._said[stream, status.replica] = line, now_s
            self.say(f"{stream}, {line}")


def status_line(status: ReplicaStatus) -> str:
    """One replica in one line.

    >>> from actors.messages import Phase
    >>> counts, position, highwater = {"applied": 3, "gap": 1}, {"news/0": 4}, {"news/0": 9}
    >>> status_line(ReplicaStatus(replica=0, phase=Phase.RUNNING, counts=counts, position=position, highwater=highwater))
    'replica 0 running: 3 applied, 1 gap, 5 behind'
    """
    leads = ", leads" if status.role is Role.LEADER and status.generation else ""
    return f"replica {status.replica} {status.phase}{leads}: {status.problem or ', '.join(_parts(status)) or 'nothing read yet'}"


def _parts(status: ReplicaStatus) -> list[str]:
    parts = [f"{count} {outcome.value.replace('_', ' ')}" for outcome in Outcome if (count := status.counts.get(outcome.value))]
    if status.position:
        behind = lag(status)
        parts.append("caught up" if status.caught_up else "reading" if behind is None else f"{behind} behind")
    if status.behind_commits:
        parts.append(f"{status.behind_commits} commits behind its leader")
    return parts + ([f"epoch {status.epoch}"] if status.epoch is not None else [])


def lag(status: ReplicaStatus) -> int | None:
    """Offsets between the position and the end of the log; None while that end is not known yet."""
    if not status.highwater:
        return None
    return sum(max(0, end - status.position.get(partition, 0)) for partition, end in status.highwater.items())


COLOURS = {"running": "green", "serving": "green", "failed": "bold red", "down": "bold red"}


def status_table(streams: Shown) -> Group:
    """All replicas, one a row, and below what each of them says is wrong."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    several = len(streams) > 1
    for name in ["stream"] * several + ["#", "phase", "role", "stale by", "behind", "docs", "learned", "other", "asked", "snapshot"]:
        table.add_column(name, justify="left" if name in ("stream", "phase", "#", "role") else "right", no_wrap=True)
    told = []
    for stream, statuses in streams.items():
        for status in statuses:
            table.add_row(*[Text(stream)] * several, *_cells(status))
            told += [f"{f'{stream}, ' * several}replica {status.replica}: {each}" for each in _problems(status)]
    return Group(table, *(Text(each, style="yellow") for each in told))


def _problems(status: ReplicaStatus) -> list[str]:
    said = (status.problem, status.snapshot_problem, restarted(status), readers_died(status), cut_off(status))
    return [each for each in said if each]


def restarted(status: ReplicaStatus) -> str | None:
    """That its process was started again lately, in words; None where it was not."""
    return f"its process was started again {status.restarts} times within the hour" if status.restarts else None


def readers_died(status: ReplicaStatus) -> str | None:
    """That processes died which read the topics, in words; None where none did."""
    if not status.poller_deaths:
        return None
    return f"the process that reads the topics died {status.poller_deaths} times; what kills it is passed over: memstream dlq list"


def cut_off(status: ReplicaStatus) -> str | None:
    """What was left out of documents that were too long, in words; None where nothing was."""
    if not status.documents_cut:
        return None
    return f"{status.documents_cut} documents were too long and lost {status.tokens_left_out} tokens at their end (chunks.max_blocks)"


def _cells(status: ReplicaStatus) -> list[Text]:
    applied, behind = status.counts.get(Outcome.APPLIED.value, 0), lag(status)
    cells = [
        str(status.replica),
        "",
        role(status),
        "never" if status.staleness_s is None else f"{status.staleness_s:.1f} s",
        "0" if status.caught_up else "" if behind is None else f"{behind:,}",
        f"{status.remembered_documents:,}",
        f"{applied:,}",
        f"{sum(status.counts.values()) - applied:,}",
        f"{status.running_answers}+{status.waiting_answers}",
        "none" if status.epoch is None else f"{status.epoch}, {_age(status.epoch_age_s)}",
    ]
    phase = Text(f"● {status.phase.value}", style=COLOURS.get(status.phase.value, "yellow"))
    return [phase if number == 1 else Text(cell) for number, cell in enumerate(cells)]


def role(status: ReplicaStatus) -> str:
    """What a replica does, and how far behind its leader it is.

    >>> from actors.messages import Phase
    >>> role(ReplicaStatus(replica=1, phase=Phase.RUNNING, role=Role.FOLLOWER, behind_commits=7, behind_updates=3, behind_s=0.42))
    'follower, 7 commits (0.4 s) behind'
    """
    if status.role is None:
        return ""
    behind = f", {status.behind_commits:,} commits ({status.behind_s:.1f} s) behind" if status.behind_commits else ""
    return f"{status.role.value}{behind}"


def _age(seconds: float | None) -> str:
    """How old something is, shortly.

    >>> _age(7.4), _age(125), _age(7300)
    ('7 s', '2 min', '2 h')
    """
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
