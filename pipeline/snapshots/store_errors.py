"""What goes wrong with a store, whichever client tells it: which exceptions those are, what the server said, and what to do about it."""

from __future__ import annotations

import errno
import sys

_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp.client_exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)


def store_errors() -> tuple[type[BaseException], ...]:
    """OSError, and what clients raise besides (missing credentials, for one). Only modules already loaded are asked: none is needed.

    ValueError is what they make of an endpoint's address or a bucket's name that cannot be one.
    """
    return (OSError, ValueError, *(getattr(sys.modules[module], name) for module, name in _CLIENT_ERRORS if module in sys.modules))


def http_status(error: BaseException | None) -> int | None:
    """The status with which a store's server answered, wherever its client has put it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        response = getattr(error, "response", None)
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        for status in (told, getattr(error, "code", None), getattr(error, "status", None)):
            if str(status).isdigit():
                return int(str(status))
        error = error.__cause__ or error.__context__
    return None


def has_wrong_checksum(error: BaseException | None) -> bool:
    """Whether what came is not what the store was given. It will not be at the next try either: to wait for it would be in vain."""
    wrong, seen = getattr(sys.modules.get("botocore.exceptions"), "FlexibleChecksumError", None), set[int]()
    while error is not None and wrong is not None and id(error) not in seen:
        if isinstance(error, wrong):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def what_to_do(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ValueError):
        return "check snapshots.root and, for S3, that AWS_ENDPOINT_URL begins with http:// or https://"
    if isinstance(error, PermissionError):
        return "check the credentials, and let them read, list, create and remove there"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "make room there; snapshots are tried again"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a file lies where a folder should be: move it, or choose another snapshots.root"
    if isinstance(error, FileNotFoundError):
        return "create the bucket, or mount the folder, that snapshots.root names"
    return "check snapshots.root, its credentials and the network; snapshots are tried again"
