"""Ray clusters: one of our own on this machine, or somebody else's by its address. All that can go wrong with either is said here.

Our own listens on the loopback address alone, asks for a token that only this user can read, and starts no HTTP agent: whoever reaches one
of Ray's ports runs code (its messages are pickles, its agent takes jobs). To somebody else's we go only where the user names it, and a
token is shown to it only if the user gives that token, or it is on this machine and the token is this user's own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import stat
from pathlib import Path
from typing import Any

import ray

from actors import ray_insides
from actors.errors import NoReplica
from actors.handles import NAMESPACE
from actors.lives import told
from actors.ray_insides import MODE_VARIABLE
from pipeline.addresses import Address, address_of
from pipeline.errors import ConfigurationError

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("actors", "jobs", "model", "pipeline")
RUNTIME_FILES = "/runtime_resources/working_dir_files/"
"""Where `ray job submit --working-dir` unpacks a job's files."""

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets for a job that it runs: its own cluster's code already."""

PROBE_S = 3.0
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS_FRAME = 4
_LISTEN = "0A"
"""Of a socket in Linux' tables (proc_pid_net(5))."""


def connect(address: str | None = None, num_cpus: int | None = None) -> None:
    """Join the Ray cluster at `address` (or `RAY_ADDRESS`), or start one on this machine: always a new one if it is "local".

    Raises:
        ConfigurationError: the address cannot be one, the cluster runs another Ray, or this Ray is none that can be closed to others.
        NoReplica: no cluster answers there, or it does not let us in.
    """
    if ray.is_initialized():
        return
    ray_insides.require_known()
    ray_insides.quiet_about_tokens()
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where == "local":
        _start(num_cpus)
    else:
        _join(where)


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends, with all its processes."""
    ray.shutdown()


def _start(num_cpus: int | None) -> None:
    if os.environ.get(MODE_VARIABLE, "").lower() == "disabled":
        log.warning("%s=disabled: any process of this machine can run code in this cluster", MODE_VARIABLE)
    else:
        if not _token_is_given():
            own_token()
        ray_insides.authenticate("token")
    ray_insides.listen_on_loopback()
    ray_insides.without_agent_http()
    _init(address="local", num_cpus=num_cpus, include_dashboard=False)


def _join(where: str) -> None:
    if where == "auto":
        head = ray_insides.found_by_itself()
        _offer_token(local=head is not None and is_here(head.host) and _listens_for_us(head.port))
    else:
        head = _head(where)
        _require_closed(head)
        _require_ray(head)
        _offer_token(local=is_here(head.host))
    if head is not None and head.host == ray_insides.LOOPBACK:  # else Ray looks for it at the machine's address, and listens there too
        ray_insides.listen_on_loopback()
    _init(address=where)


def _init(**options: Any) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    where = options["address"]
    _require_own_names()
    try:
        # Ray puts the working directory in front of its workers' paths, where a user's own package `model` would be taken for ours.
        with contextlib.chdir(ROOT):
            ray.init(namespace=NAMESPACE, log_to_driver=True, configure_logging=False, **options)
    except Exception as error:  # Ray raises RuntimeError, ValueError, ConnectionError, AssertionError and its own, by no rule
        text = str(error)
        if "ersion mismatch" in text:
            raise ConfigurationError(
                f"the Ray cluster at {where} runs another version than this environment (Ray {ray.__version__}): use the same Ray and"
                f" Python on both sides; it says: {told(text)}"
            ) from error
        if where == "auto":
            raise NoReplica(
                "no stream runs on this machine: start one with `memstream run`, or name its Ray cluster with --address"
            ) from error
        if where == "local":
            raise NoReplica(f"Ray does not start on this machine: {told(text)}; its logs are in /tmp/ray/session_latest/logs") from error
        raise NoReplica(
            f"cannot join the Ray cluster at {where}: {told(text)}; if it asks for a token, give it as RAY_AUTH_TOKEN"
        ) from error


def _require_own_names() -> None:
    """Raises ConfigurationError where a job's files, which Ray puts in front of everything in its workers, hide this distribution's."""
    here = Path.cwd()
    if here == ROOT or RUNTIME_FILES not in str(here):
        return
    hidden = [name for name in PACKAGES if (here / name).is_dir() or (here / f"{name}.py").is_file()]
    if hidden:
        raise ConfigurationError(
            f"the job's working directory holds {', '.join(hidden)}, which hides memstream's own package of that name: submit it from"
            " another folder (ray job submit --working-dir), or rename it"
        )


# ---------------------------------------------------------------------- addresses


def _head(where: str) -> Address:
    """The address of a cluster's head. Raises ConfigurationError for what is none."""
    if where.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{where} is a web address, and a Ray cluster's is HOST:PORT of its head (port 6379 unless chosen); to run there as a job: "
            f"ray job submit --address {where} -- memstream run --config ..."
        )
    if "://" in where:
        raise ConfigurationError(
            f"{where}: Ray's client protocol is not supported, since actors are placed by the machine they are started from; run this on a"
            " node of the cluster, or as a job (ray job submit)"
        )
    try:
        return address_of(where)
    except ValueError:
        raise ConfigurationError(
            f"--address {where}: want HOST:PORT of the cluster's head, as in 10.0.0.5:6379, or auto, or local"
        ) from None


def is_here(host: str) -> bool:
    """Whether an address is one of this machine's own, so that what is sent there does not leave it.

    >>> is_here("127.0.0.1"), is_here("localhost"), is_here("192.0.2.77")
    (True, True, False)
    """
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(addresses) and all(map(_is_own, addresses))


def _is_own(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    if number.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET6 if number.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))  # only an address of this machine can be bound
    except OSError:
        return False
    return not number.is_unspecified


def _require_closed(head: Address) -> None:
    """Raises ConfigurationError before another machine's cluster is joined of which nobody says that it is closed to others."""
    told = _token_is_given() or os.environ.get(MODE_VARIABLE) or os.environ.get("RAY_USE_TLS") == "1"
    if told or JOB_VARIABLE in os.environ or is_here(head.host):
        return
    raise ConfigurationError(
        f"the Ray cluster at {head} is on another machine, and whoever reaches one without authentication runs code in it and in this"
        f" process: give its token (RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH), or use TLS (RAY_USE_TLS=1); {MODE_VARIABLE}=disabled joins one"
        " that asks nobody"
    )


def _require_ray(where: Address) -> None:
    """Raises NoReplica within seconds where no Ray listens: Ray itself would try for minutes."""
    try:
        with socket.create_connection((where.host, where.port), timeout=PROBE_S) as wire:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            wire.sendall(_HTTP2_PREFACE)
            wire.settimeout(PROBE_S)
            answer = wire.recv(9)
    except TimeoutError as error:
        raise NoReplica(f"what listens at {where} does not answer as Ray does; check --address (port 6379 unless chosen)") from error
    except (OSError, UnicodeError) as error:
        raise NoReplica(f"no Ray cluster at {where}: {error}; check --address, and that the cluster runs") from error
    if len(answer) < 9 or answer[3] != _SETTINGS_FRAME:
        kind = "a web server" if answer.startswith((b"HTTP", b"<")) else "something else"
        raise NoReplica(f"{kind} listens at {where}, no Ray cluster; check --address (port 6379 unless chosen)")


# ---------------------------------------------------------------------- tokens


def own_token() -> Path:
    """This user's token, which no other user can read; made if there is none.

    Raises ConfigurationError where it cannot be kept, or is somebody else's.
    """
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        if _is_private(path):
            return path
        path.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(
            f"cannot keep Ray's token in {path}: {error.strerror}; set HOME to a folder of yours, or RAY_AUTH_TOKEN_PATH to a file"
        ) from error
    if not _is_private(path):
        raise ConfigurationError(f"{path} is no plain file of this user alone; remove it, or set RAY_AUTH_TOKEN_PATH to another one")
    return path


def _is_private(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _listens_for_us(port: int) -> bool:
    """Whether what listens at a port of this machine belongs to this user: any other could take the token that it is given."""
    owners = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            owners |= {int(row[7]) for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port}
    return owners == {os.geteuid()}


def _token_is_given() -> bool:
    return any(os.environ.get(name) for name in _TOKEN_VARIABLES)


def _offer_token(local: bool) -> None:
    """Ray takes the token from where the user says; by itself only this machine's clusters get this user's own."""
    if _token_is_given():
        os.environ.setdefault(MODE_VARIABLE, "token")
    if os.environ.get(MODE_VARIABLE):
        return
    path = Path.home() / ".ray" / "auth_token"
    offered = local and path.is_file() and path.lstat().st_uid == os.geteuid()
    ray_insides.authenticate("token" if offered else "disabled")
