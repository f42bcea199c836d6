"""The page in a headless Chromium: by keyboard, on a phone, in the dark, and with a feed that writes markup."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from actors.http.app import make_app
from actors.http.config import HttpConfig
from tests.doubles.browser import CHROMIUM, Browser
from tests.doubles.streams import LocalStream
from tests.doubles.tiny import tiny_block_checkpoint
from tests.processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
    pytest.mark.filterwarnings("ignore"),  # of uvicorn's own
]

MARKUP = "<img src=x onerror=window.hurt=1>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    checkpoint = tiny_block_checkpoint(tmp_path_factory.mktemp("tiny"), K=16)
    stream = LocalStream(checkpoint, tmp_path_factory.mktemp("snapshots"), memory={"margin": -1e6, "evidence": -1e6, "read_share": 1e-9})
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(stream, HttpConfig()), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for number in range(30):
        title = f"{MARKUP} {number}" if number == 29 else f"Title {number}"
        asyncio.run(stream.publish({"text": f"Person {number}.", "title": title, "id": f"p{number}"}, None))
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)
    stream.close()


def test_it_is_used_by_keyboard_alone(page: str) -> None:
    with Browser() as browser:
        browser.open(page)
        browser.eventually("document.querySelectorAll('#documents li').length === 25")
        browser.write("Who is person 3?")  # the box has the focus
        browser.press("Enter")
        browser.eventually("document.querySelectorAll('#sources li').length > 0")
        assert "Title 3" in browser.text("#sources") and "replica 0" in browser.text("#known")
        assert browser.text("#ready") == "ready" and "running" in browser.text("#replicas")
        for _ in range(2):
            browser.press("Tab")
        assert browser.value("document.activeElement.id") == "search"
        browser.write("title 7")
        browser.eventually("document.querySelectorAll('#documents li').length === 1")


def test_what_a_feed_writes_is_shown_and_never_run(page: str) -> None:
    with Browser() as browser:
        browser.open(page)
        browser.eventually("document.querySelectorAll('#live li').length > 0")
        assert MARKUP in browser.text("#live") and browser.value("window.hurt === undefined && document.images.length === 0")


def test_it_fits_a_phone_and_is_dark_where_that_is_wanted(page: str, tmp_path: Path) -> None:
    with Browser(width=390, height=844, dark=True, touch=True) as browser:
        browser.open(page + "?q=Who%3F")
        browser.eventually("(document.querySelector('#known')?.textContent ?? '') !== ''")
        assert browser.value("document.documentElement.scrollWidth <= 390")
        assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 22)"
        browser.picture(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 10_000
