"""`python -m jobs.parity`: what it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from jobs.parity import app
from model.errors import CheckpointError
from tests.doubles.reference import record


def run(folder: Path, *options: str) -> tuple[int, dict[str, Any], BaseException | None]:
    """Exit code, report, and what `jobs.command` would put into words."""
    out = folder / "reports" / "parity.json"
    found = CliRunner().invoke(app, [str(folder), "--json", str(out), *options])
    report: dict[str, Any] = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return found.exit_code, report, found.exception


def test_a_recording_that_is_reproduced_exits_0(tmp_path: Path) -> None:
    code, report, _ = run(record(tmp_path))
    assert code == 0 and report["ok"] is True and report["greedy_equal"] is True
    assert len(report["tensors"]) == 25 and all(0 < each["rel_error"] < 1e-4 for each in report["tensors"].values())


def test_an_error_above_the_tolerance_exits_1(tmp_path: Path) -> None:
    code, report, _ = run(record(tmp_path), "--tolerance", "1e-12")
    assert code == 1 and report["ok"] is False and report["greedy_equal"] is True


def test_without_greedy_tokens_their_equality_is_null(tmp_path: Path) -> None:
    file = record(tmp_path) / "expected.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if not name.startswith("greedy")}, file)
    code, report, _ = run(tmp_path)
    assert code == 0 and report["greedy_equal"] is None


def test_what_is_not_finite_is_null_and_not_ok(tmp_path: Path) -> None:
    file = record(tmp_path) / "expected.safetensors"
    tensors = load_file(file)
    tensors["update_1.delta"][0, 0, 0, 0] = torch.nan
    tensors["query_2.logits"] = tensors["query_2.logits"][:, 1:].contiguous()
    save_file(tensors, file)
    code, report, _ = run(tmp_path)
    assert code == 1 and report["ok"] is False
    assert report["tensors"]["update_1.delta"]["rel_error"] is None and report["tensors"]["query_2.logits"]["rel_error"] is None


def test_weights_that_are_not_finite_are_not_ok(tmp_path: Path) -> None:
    file = record(tmp_path) / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    code, report, _ = run(tmp_path)
    assert code == 1 and report["ok"] is False and None in {each["rel_error"] for each in report["tensors"].values()}


def test_a_broken_folder_exits_1_with_its_reason(tmp_path: Path) -> None:
    code, report, error = run(tmp_path)
    assert code == 1 and report["ok"] is False and "no expected.safetensors" in report["error"]
    assert isinstance(error, CheckpointError)


def test_another_dtype_is_computed_in_but_seldom_within_the_tolerance(tmp_path: Path) -> None:
    record(tmp_path)
    assert run(tmp_path, "--dtype", "float64")[0] == 0
    code, report, _ = run(tmp_path, "--dtype", "bfloat16")
    assert code == 1 and max(each["rel_error"] for each in report["tensors"].values()) > 1e-3
