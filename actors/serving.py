"""A replica that reads no stream: it follows the snapshots that somebody else writes, perhaps in another cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable

from actors.learner import Learner
from actors.saver import Loaded, Saver

LOOK_S = 5.0
"""Between two looks for a newer snapshot."""


class Serving:
    """Follows the latest snapshot."""

    def __init__(self, learner: Learner, saver: Saver, replace_memory: Callable[[Loaded], None], stop: threading.Event) -> None:
        self._learner, self._saver, self._replace_memory, self._stop = learner, saver, replace_memory, stop

    def step(self) -> None:
        """Wait, look, and take what is new. Raises SnapshotError."""
        self._stop.wait(LOOK_S)
        last = self._saver.last
        if self._stop.is_set() or (last is not None and self._saver.newest_epoch() in (None, last.epoch)):
            return
        manifest = self._saver.latest()
        if manifest is not None and (last is None or manifest.epoch != last.epoch):
            self._replace_memory(self._saver.load(manifest))
