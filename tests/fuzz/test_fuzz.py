"""Everything that comes from outside, made up by hypothesis: what a stream brings, what a snapshot store gives, what clients send.

In `make test` some hundred examples of each. `make test-slow` goes on for MEMSTREAM_FUZZ_S seconds (an hour if not set), with new ones
each time: what fails is told at once and left out from then on, and the others go on.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import requests, schemas, snapshots, stream
from tests.fuzz.targets import LONG, QUICK, TARGETS, fuzzed

LONG_S = float(os.environ.get("MEMSTREAM_FUZZ_S", "3600"))
TOLD_EVERY_S = 60.0

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that make up the requests

assert requests and schemas and snapshots and stream  # their targets are registered by being imported


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_FUZZ_FILE", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def front() -> Iterator[None]:
    with requests.closing():
        yield


@pytest.mark.parametrize("name", list(TARGETS))
def test_what_comes_from_outside_is_taken_or_refused(name: str) -> None:
    fuzzed(name, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(int(LONG_S) + 900)
def test_for_an_hour() -> None:
    started_s = told_s = time.monotonic()
    failed: list[Exception] = []
    examples: Counter[str] = Counter()
    waiting = list(TARGETS)
    while waiting and time.monotonic() < started_s + LONG_S:
        for name in tuple(waiting):
            try:
                fuzzed(name, LONG)
            except Exception as error:
                traceback.print_exc()
                failed.append(error)
                waiting.remove(name)
            examples[name] += LONG.max_examples
            if time.monotonic() > told_s + TOLD_EVERY_S or name not in waiting:
                told_s = time.monotonic()
                print(f"{told_s - started_s:.0f} s: {examples.total():,} examples, {len(failed)} failed", file=sys.stderr, flush=True)
    if failed:
        raise ExceptionGroup("what comes from outside was neither taken nor refused", failed)
    assert min(examples.values()) > 0
