"""A user's own packages of our names do not hide ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["model", "pipeline", "actors"])
@pytest.mark.parametrize("module", [False, True])
def test_a_folder_of_that_name_in_front_of_the_path_is_passed_over(name: str, module: bool, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package of the user was imported')\n")
    command = (
        ["-m", "jobs.run"] if module else ["-c", "import sys; sys.argv = ['memstream', 'run', '--help']; from jobs.cli import app; app()"]
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    ended = subprocess.run(
        [sys.executable, *command, *(["--help"] if module else [])], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "Learn streams" in ended.stdout
