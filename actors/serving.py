"""A replica that reads no stream: it follows the snapshots that somebody else writes, perhaps in another cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from actors.messages import Role
from actors.saver import Loaded, Saver

LOOK_S = 5.0
"""Between two looks for a newer snapshot."""


class Serving:
    """Follows the latest snapshot."""

    role = Role.SERVER

    def __init__(self, saver: Saver, replace_memory: Callable[[Loaded], None], stop: threading.Event) -> None:
        self._saver, self._replace_memory, self._stop = saver, replace_memory, stop

    def standing(self) -> dict[str, Any]:
        """What the status says of this role: nothing of its own."""
        return {}

    def step(self) -> None:
        """Wait, look, and take what is new. Raises SnapshotError."""
        self._stop.wait(LOOK_S)
        if not self._stop.is_set() and (manifest := self._saver.newer()) is not None:
            self._replace_memory(self._saver.load(manifest))
