"""The audit of what is locked: vulnerable is told and fails, unknown is told and passes."""

from __future__ import annotations

import json
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
WORSE = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": []}
NOT_MENDED = {"id": "PYSEC-2", "fix_versions": [], "aliases": []}


@pytest.fixture
def main() -> Any:
    return runpy.run_path(str(ROOT / "infra" / "setup" / "audit.py"))["main"]


def says(monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "") -> None:
    """What pip-audit says."""
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, stdout, stderr))


@pytest.mark.parametrize(("vulns", "status"), [([], 0), ([WORSE], 1), ([NOT_MENDED], 0), ([NOT_MENDED, WORSE], 1)])
def test_what_could_be_mended_fails(
    main: Any, vulns: list[Any], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known, unknown = {"name": "a", "version": "1.0", "vulns": vulns}, {"name": "b", "skip_reason": "not found"}
    says(monkeypatch, json.dumps({"dependencies": [known, unknown], "fixes": []}))
    assert main("requirements.txt") == status
    said = capsys.readouterr().out
    assert "1 of 2 locked packages" in said and all(each["id"] in said for each in vulns)


@pytest.mark.parametrize(
    ("stdout", "stderr", "why"),
    [
        ("", "No module named pip_audit", "No module named pip_audit"),
        ("", "Traceback\nConnectionError: Failed to resolve", "Failed to resolve"),
        (json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found on PyPI"}]}), "", "has no advisories"),
    ],
)
def test_without_advisories_it_says_so_and_passes(
    main: Any, stdout: str, stderr: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(monkeypatch, stdout, stderr)
    assert main("requirements.txt") == 0
    said = capsys.readouterr().out
    assert "skipped" in said and why in said


def test_the_lock_is_made_with_all_extras_and_digests() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "--all-extras --generate-hashes" in makefile
    locked = {line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line and line[0] not in " #"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {need.split(">")[0].split("[")[0].lower() for needs in extras.values() for need in needs}
    assert sorted(wanted - locked) == []
