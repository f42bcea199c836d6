"""Models of a hub: one commit, data alone, and a branch is told by the commit that it is now."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from model.catalog import checkpoint_folder
from model.errors import CheckpointError
from model.hub import fetch
from tests.doubles.hub import Hub, hub
from tests.doubles.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the hub's client


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield made


def test_a_pinned_commit_is_fetched_without_code_and_found_again_without_the_hub(served: Hub, caplog: pytest.LogCaptureFixture) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"x", "modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
    commit = served.push("main", files)
    served.push("main", {"config.json": b'{"later": 1}'})
    folder = fetch("owner/model", commit)
    assert folder.name == commit and sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "config.json").read_bytes() == b"{}"
    assert caplog.messages == []
    del served.commits[commit], served.files[commit]
    before = len(served.asked)
    assert fetch("owner/model", commit) == folder
    assert [path for path in served.asked[before:] if "/resolve/" in path] == []


@pytest.mark.parametrize("revision", [None, "main"])
def test_of_a_branch_it_is_said_which_commit_it_is(served: Hub, revision: str | None, caplog: pytest.LogCaptureFixture) -> None:
    commit = served.push("main", {"config.json": b"{}"})
    with caplog.at_level(logging.WARNING):
        assert fetch("owner/model", revision).name == commit
    assert [message for message in caplog.messages if f"model.revision: {commit}" in message]


def test_a_revision_that_is_none_is_an_error_that_names_it(served: Hub) -> None:
    served.push("main", {"config.json": b"{}"})
    with pytest.raises(CheckpointError, match="did not give gone"):
        fetch("owner/model", "gone")


def test_only_names_of_the_hub_have_revisions(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no revision"):
        checkpoint_folder(str(tiny_checkpoint(tmp_path)), "0" * 40)
    with pytest.raises(CheckpointError, match="has no revision"):
        checkpoint_folder("memoryllm-smol-135m", "0" * 40)


def test_nothing_is_loaded_without_saying_that_its_code_is_not_trusted() -> None:
    found = 0
    for folder in ("model", "actors", "jobs", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
                    found += 1
                    said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert said.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
    assert found >= 5
