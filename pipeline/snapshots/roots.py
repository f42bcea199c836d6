"""Where snapshots may lie: one rule for what is written as `snapshots.root`."""

from __future__ import annotations

import os

from pipeline.paths import absolute, expanded

BUCKET_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs"})
"""Where the first part of a path is a bucket, which memstream does not create."""

FOLDERS = frozenset({"file", "local"})


def is_local(root: str) -> bool:
    """Whether only this machine sees what is written there.

    >>> is_local("file:///var/lib/memstream"), is_local("~/snapshots"), is_local("s3://bucket/memstream")
    (True, True, False)
    """
    return absolute_root(root).startswith("file://")


def absolute_root(root: str) -> str:
    """A root that means the same from any working directory (`pipeline.paths`); folders may be written with or without `file://`.

    Raises ValueError for what is no root, or one of a kind that cannot hold snapshots.

    >>> absolute_root("s3://bucket/memstream/"), absolute_root("file:///var/lib/../memstream"), absolute_root("file://localhost/var")
    ('s3://bucket/memstream', 'file:///var/memstream', 'file:///var')
    """
    root = expanded(root.strip())
    if "::" in root:
        raise ValueError(f"{root!r} chains file systems; name one store")
    scheme, separator, path = root.partition("://")
    if separator and scheme not in FOLDERS:
        return f"{scheme}://{path.rstrip('/')}"
    if separator and (host := _host(path)):
        raise ValueError(f"{root!r} names another machine, {host}; mount its folder here and name that")
    folder = path.removeprefix("localhost") if separator and path.startswith("localhost/") else path if separator else root
    return f"file://{absolute(folder.removeprefix('file:'))}"


def _host(path: str) -> str:
    """What looks like a machine's name in file://HOST/path: dots in it, and no such folder here."""
    first, slash, _ = path.partition("/")
    return first if slash and "." in first.strip(".") and not os.path.isdir(first) else ""


def checked_root(root: str) -> str:
    """`absolute_root` of a root that snapshots may have: a folder, or a store that all machines of a cluster reach. Raises ValueError."""
    root = absolute_root(root)
    scheme = root.partition("://")[0]
    if scheme not in FOLDERS and scheme not in BUCKET_PROTOCOLS:
        kept = "keeps nothing when its process ends" if scheme == "memory" else "is none that snapshots can lie on"
        raise ValueError(f"{scheme}:// {kept}: use a folder, s3:// or gs://")
    if scheme in BUCKET_PROTOCOLS and "@" in root.partition("://")[2].partition("/")[0]:
        raise ValueError(f"a {scheme}:// URL with credentials in it: they belong into the environment, since this one is shown and stored")
    if scheme in BUCKET_PROTOCOLS and not root.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{root!r} names no bucket")
    return root
