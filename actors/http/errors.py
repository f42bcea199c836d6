"""What went wrong, in the shape in which OpenAI's clients expect it."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from actors.errors import Busy, Ended, Interrupted, NoReplica, NoSuchTime, Overdue, ReplicaLost
from model.errors import ModelError
from pipeline.errors import ConfigurationError, MemstreamError, SnapshotError


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        param: the field at fault, as OpenAI names it.
        code: for programs.
        retry_after_s: when it may be tried again.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after_s = status, message, param, code, retry_after_s

    @property
    def kind(self) -> str:
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def refused(error: Exception) -> Refused:
    """An error of the stream as an answer to a request. What we did not expect is said to be ours, without its text."""
    match error:
        case Refused():
            return error
        case Busy():
            return Refused(429, str(error), code="busy", retry_after_s=error.retry_after_s)
        case NoSuchTime():
            return Refused(404, str(error), param="knowledge.as_of", code="no_such_snapshot")
        case Overdue():
            return Refused(504, str(error), code="timeout")
        case ConfigurationError():
            return Refused(400, str(error), code="unsupported")
        case SnapshotError() if not error.retriable:
            return Refused(409, str(error), param="knowledge.as_of", code="snapshot_unusable")
        case NoReplica() | ReplicaLost() | Ended() | Interrupted():
            return Refused(503, str(error), code="no_replica", retry_after_s=1)
        case MemstreamError() if error.retriable:
            code = {"NotKnownYet": "not_known_yet", "NotReady": "not_ready"}.get(type(error).__name__, "unavailable")
            return Refused(503, str(error), code=code, retry_after_s=1)
        case ValueError():
            return Refused(400, str(error), code="invalid_value")
        case ModelError() | MemstreamError():
            return Refused(500, f"{type(error).__name__}: {error}", code="failed")
    return Refused(500, f"the server failed: {type(error).__name__}", code="failed")
