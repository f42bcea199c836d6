"""Turns on one device: updates and decode steps alternate by a stated share, not by a race for a lock.

While answers are running, an update gets its turn after `decode_steps_per_update` decode steps; with no answer running it gets it at
once. A step never waits for more than one update.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

STALLED_ANSWER_S = 1.0
"""An answer that takes no step for so long (its reader is slow) does not hold updates up any longer."""


class DeviceTurns:
    """Hands the device to one update or one decode step at a time."""

    def __init__(self, decode_steps_per_update: int = 4) -> None:
        if decode_steps_per_update < 1:
            raise ValueError("decode_steps_per_update must be at least 1")
        self.decode_steps_per_update = decode_steps_per_update
        self._changed = threading.Condition()
        self._busy = False
        self._answers = 0
        self._updates_waiting = 0
        self._steps = 0

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Around a whole answer: while one runs, updates wait for its steps."""
        with self._changed:
            self._answers += 1
        try:
            yield
        finally:
            with self._changed:
                self._answers -= 1
                self._changed.notify_all()

    @contextmanager
    def decode_step(self) -> Iterator[None]:
        """Around one forward pass of an answer."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and (self._updates_waiting == 0 or self._steps < self.decode_steps_per_update))
            self._busy = True
        try:
            yield
        finally:
            self._release(self._steps + 1)

    @contextmanager
    def update(self) -> Iterator[None]:
        """Around one update."""
        with self._changed:
            self._updates_waiting += 1
            try:
                # Past the time limit the share is dropped, never the exclusion.
                self._changed.wait_for(self._update_is_due, timeout=STALLED_ANSWER_S)
                self._changed.wait_for(lambda: not self._busy)
                self._busy = True
            finally:
                self._updates_waiting -= 1
        try:
            yield
        finally:
            self._release(0)

    def _update_is_due(self) -> bool:
        return not self._busy and (self._answers == 0 or self._steps >= self.decode_steps_per_update)

    def _release(self, steps: int) -> None:
        with self._changed:
            self._busy = False
            self._steps = steps
            self._changed.notify_all()
