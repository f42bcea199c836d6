"""What is raised on the way from bytes to a document; `decode` makes the dead letter of it."""

from __future__ import annotations

from pipeline.records import Reason


class Undecodable(Exception):
    """A record is no document. `detail` says to whoever wrote it what is wrong."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
