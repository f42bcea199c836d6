"""Ray's way to call an actor, over a channel to a process of the nursery: so the real `RemotePoller` runs, kills and all, without Ray."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError

from actors import remote_poller
from actors.poller import Poller
from tests.faults import planted
from tests.faults.nursery import Child, born


class Actor:
    """One process; its methods are called in order, as `actor.method.remote(...)`."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._numbers, self._sending = count(), threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._ended = False
        threading.Thread(target=self._receive, name="answers", daemon=True).start()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(method, arguments))

    def _call(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        future = Future[Any]()
        with self._sending:
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                self.child.channel.send((number, method, arguments))
            except OSError:
                self._ended = True
        if self._ended:
            self._end()
        return future

    def _receive(self) -> None:
        try:
            while True:
                number, failed, value = self.child.channel.recv()
                future = self._waiting.pop(number)
                if failed:
                    future.set_exception(value)
                else:
                    future.set_result(value)
        except (EOFError, OSError):
            self._ended = True
            self._end()

    def _end(self) -> None:
        while self._waiting:
            try:
                _, future = self._waiting.popitem()
            except KeyError:
                return
            future.set_exception(RayActorError())


def serve_poller(channel: Connection, plant: str | None, number: int, *arguments: Any) -> None:
    """A poller's process: one call after the other, until nobody is left who calls."""
    planted.plant(plant, number)
    poller = Poller(*arguments)
    while True:
        try:
            call, method, given = channel.recv()
        except EOFError:
            return
        try:
            answer = (call, False, getattr(poller, method)(*given))
        except Exception as error:  # it is for whoever called
            answer = (call, True, error)
        try:
            channel.send(answer)
        except OSError:
            return


def use_nursery(nursery: str, log: Path, plant: str | None, number: int, told: Any) -> None:
    """From here on pollers of replica `number` are processes of the nursery. `told` hears their process ids."""

    def remote(*arguments: Any) -> Actor:
        child = born(nursery, "tests.faults.remote:serve_poller", log, {}, plant, number, *arguments)
        told(child.pid)
        return Actor(child)

    def result_of(reference: Future[Any], timeout_s: float | None = None) -> Any:
        try:
            return reference.result(timeout_s)
        except FutureTimeout as error:
            if reference.done():
                raise  # the far end's own
            raise GetTimeoutError("no answer in time") from error

    far_end = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote))
    ray = SimpleNamespace(get=lambda reference, timeout=None: result_of(reference, timeout), kill=lambda actor: actor.child.kill())
    for name, value in {"PollerActor": far_end, "result_of": result_of, "here": lambda: None, "ray": ray}.items():
        setattr(remote_poller, name, value)
