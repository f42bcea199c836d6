"""All that reaches into Ray, in one place: what it does by default and does not let us say otherwise.

| what | why |
|---|---|
| `listen_on_loopback` | a cluster's parts listen on the machine's address; on other systems Ray takes 127.0.0.1, and so do we |
| `without_agent_http` | its agent's web server takes jobs, which are commands, and nothing of ours asks it |
| `serve_on_loopback` | Serve's door between its own parts listens on all addresses, wherever the cluster listens |
| `authenticate` | Ray reads the environment when it is imported; a mode that is chosen later must be read again |

`require_known` refuses a Ray that has none of these places, rather than listen where nobody is to hear. 2.58 is the first whose Serve
opens its door where it can be led elsewhere (`add_port_to_grpc_server`), 2.59 the first that asks for tokens unless told not to (2.52 to
2.58 know them, and let everybody in).
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any, Final

import ray
from ray import _raylet
from ray._private import ray_constants, services, utils

from pipeline.addresses import Address, address_of
from pipeline.errors import ConfigurationError

LOOPBACK: Final = "127.0.0.1"
LEAST: Final = (2, 59)
"""Kept with the bound in pyproject.toml."""

MODE_VARIABLE: Final = "RAY_AUTH_MODE"
_CLUSTER_VARIABLE: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def require_known() -> None:
    """Raises ConfigurationError for a Ray that is too old, or has other insides than those that are changed here."""
    wanted = f"memstream needs ray>={'.'.join(map(str, LEAST))}, whose clusters can be closed to others"
    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < LEAST:
        raise ConfigurationError(f"{wanted}; this is Ray {ray.__version__}: pip install --upgrade memstream")
    places = (
        (ray_constants, "ENABLE_RAY_CLUSTER"),
        (utils, "get_dashboard_dependency_error"),
        (services, "get_ray_address_from_environment"),
        (_raylet, "Config"),
    )
    missing = [name for place, name in places if not hasattr(place, name)]
    if missing:
        raise ConfigurationError(f"{wanted}; Ray {ray.__version__} is too new for this memstream ({', '.join(missing)} is gone)")


def listen_on_loopback() -> None:
    """The cluster that this process starts is on the loopback address alone."""
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[_CLUSTER_VARIABLE] = "0"


def found_by_itself() -> Address | None:
    """The head of the cluster that Ray finds where it is told none: the last one of this machine. None where there is none."""
    with contextlib.suppress(ConnectionError, ValueError):
        found = services.get_ray_address_from_environment("auto", None)
        return None if found is None else address_of(found)
    return None


def without_agent_http() -> None:
    """Have Ray's agent start as where its web server is not installed."""
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")


def serve_on_loopback() -> None:
    """To be called in the process of one of Serve's replicas before it opens its door; does nothing where the cluster is not local."""
    from ray.serve._private import replica

    add_port: Any = vars(replica)["add_port_to_grpc_server"]
    if ray.util.get_node_ip_address() == LOOPBACK:
        vars(replica)["add_port_to_grpc_server"] = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK))


def authenticate(mode: str) -> None:
    """Of the clusters that are started or joined from here: "token" or "disabled"."""
    os.environ[MODE_VARIABLE] = mode
    vars(_raylet)["Config"].initialize("")


def quiet_about_tokens() -> None:
    """Ray says with each cluster that it has a token: nothing that whoever starts a stream must know."""
    with contextlib.suppress(ImportError):
        from ray._private.authentication import authentication_token_setup as setup

        setup.logger.setLevel(logging.ERROR)
