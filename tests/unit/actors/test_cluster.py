"""Joining or starting Ray: what cannot work is said within seconds, and a token goes nowhere by itself."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import cluster
from actors.cluster import connect, is_here, own_token
from actors.errors import NoReplica
from actors.ray_insides import LEAST
from pipeline.errors import ConfigurationError
from tests.doubles.ports import Listen, answering, ports, silent


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster is joined or started here, and the home is another one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(cluster, "PROBE_S", 0.5)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(os.environ, "RAY_AUTH_MODE", "disabled")


@pytest.fixture
def listening() -> Iterator[Listen]:
    with ports() as listen:
        yield listen


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "is a web address"),
        ("https://ray.example.com", "is a web address"),
        ("ray://127.0.0.1:10001", "client protocol is not supported"),
        ("127.0.0.1:port", "want HOST:PORT"),
        ("127.0.0.1", "want HOST:PORT"),
        ("127.0.0.1:99999", "want HOST:PORT"),
        (":6379", "want HOST:PORT"),
    ],
)
def test_addresses_that_are_none_are_refused_with_what_is_wanted(address: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        connect(address)


def test_what_is_no_ray_is_told_within_seconds(listening: Listen) -> None:
    with pytest.raises(NoReplica, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        connect("127.0.0.1:1")
    with pytest.raises(NoReplica, match="does not answer as Ray does"):
        connect(listening(silent))
    with pytest.raises(NoReplica, match="a web server listens at"):
        connect(listening(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
    with pytest.raises(NoReplica, match="something else listens at"):
        connect(listening(answering(b"\x00\x00\x00\x01\x02\x03\x04\x05\x06")))
    connect(listening(answering(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00")))  # HTTP/2 settings, as gRPC's servers begin


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.10.1"),
            ConfigurationError,
            "same Ray",
        ),
        (ConnectionError("Could not find any running Ray instance."), NoReplica, "cannot join"),
        (ValueError("whatever else"), NoReplica, "cannot join"),
    ],
)
def test_whatever_ray_raises_becomes_one_message(
    listening: Listen, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception], said: str
) -> None:
    def init(**_: Any) -> None:
        raise raised

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(kind, match=said):
        connect(listening(answering(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00")))


def test_a_token_is_made_for_this_user_alone_and_a_readable_one_is_closed(tmp_path: Path) -> None:
    path = own_token()
    assert path == tmp_path / ".ray" / "auth_token" and len(path.read_text()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    before = path.read_text()
    assert own_token().read_text() == before and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_that_is_a_link_or_has_no_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / "elsewhere").write_text("token")
    (tmp_path / ".ray" / "auth_token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="no plain file of this user alone"):
        own_token()
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(ConfigurationError, match="cannot keep Ray's token"):
        own_token()


@pytest.mark.parametrize(("local", "mode"), [(True, "token"), (False, "disabled")])
def test_this_users_token_is_offered_to_this_machine_alone(local: bool, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own_token()
    monkeypatch.delenv("RAY_AUTH_MODE")
    cluster._offer_token(local)
    assert os.environ["RAY_AUTH_MODE"] == mode


def test_a_token_that_is_given_goes_where_the_user_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    cluster._offer_token(local=False)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_only_addresses_of_this_machine_are_here() -> None:
    assert is_here("127.0.0.1") and is_here("::1") and is_here("localhost")
    assert not is_here("192.0.2.200") and not is_here("no-such-host.invalid") and not is_here("0.0.0.0")


def test_another_machines_cluster_is_joined_only_with_a_token_tls_or_in_as_many_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_require_ray", lambda head: None)
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.77:6379 is on another machine.*RAY_AUTH_TOKEN"):
        connect("192.0.2.77:6379")
    assert "RAY_AUTH_MODE" not in os.environ
    for name, value in (
        ("RAY_AUTH_TOKEN", "given"),
        ("RAY_USE_TLS", "1"),
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"),
    ):
        with monkeypatch.context() as told:
            told.setitem(os.environ, name, value)
            connect("192.0.2.77:6379")
            told.delenv("RAY_AUTH_MODE", raising=False)


@pytest.mark.parametrize("version", ["2.52.1", "2.58.1", "1.13.0"])
def test_a_ray_whose_clusters_cannot_be_closed_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", version)
    with pytest.raises(ConfigurationError, match=rf"needs ray>=2\.59.*this is Ray {version}"):
        connect("local")


def test_a_ray_with_other_insides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER")
    with pytest.raises(ConfigurationError, match="ENABLE_RAY_CLUSTER is gone"):
        connect("local")


def test_the_bound_in_the_package_is_the_one_that_is_checked() -> None:
    project = tomllib.loads((cluster.ROOT / "pyproject.toml").read_text())["project"]
    (needs,) = [line for line in project["dependencies"] if line.startswith("ray[")]
    assert needs.endswith(f">={'.'.join(map(str, LEAST))}")


def test_an_own_cluster_asks_for_the_token_whatever_rays_default_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    connect("local")
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_packages_of_a_job_that_hide_ours_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    (folder / "model").mkdir(parents=True)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigurationError, match="holds model, which hides"):
        connect("auto")
