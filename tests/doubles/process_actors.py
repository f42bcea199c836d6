"""Actors as plain processes of this machine: what Ray does for `RemotePoller`, started in a moment. They die as real ones do."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError

_SPAWN = multiprocessing.get_context("spawn")


def _serve(kind: Callable[..., Any], given: tuple[Any, ...], calls: Connection) -> None:
    served = kind(*given)
    while True:
        try:
            number, name, arguments = calls.recv()
        except EOFError:
            return
        try:
            calls.send((number, True, getattr(served, name)(*arguments)))
        except Exception as error:
            calls.send((number, False, error))


@dataclass
class Call:
    actor: ProcessActor
    number: int


@dataclass
class Method:
    actor: ProcessActor
    name: str

    def remote(self, *arguments: Any) -> Call:
        return self.actor.call(self.name, arguments)


class ProcessActor:
    """One process; its methods are called as a Ray actor's are."""

    def __init__(self, kind: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self._calls, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(kind, given, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._lock, self._sent, self._answers = threading.RLock(), 0, dict[int, tuple[bool, Any]]()

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def call(self, name: str, arguments: tuple[Any, ...]) -> Call:
        with self._lock:
            self._sent += 1
            try:
                self._calls.send((self._sent, name, arguments))
            except OSError:
                self._answers[self._sent] = (False, RayActorError())
            return Call(self, self._sent)

    def answer(self, number: int, timeout_s: float) -> Any:
        with self._lock:
            while number not in self._answers:
                try:
                    if not self._calls.poll(timeout_s):
                        raise GetTimeoutError
                    answered, *answer = self._calls.recv()
                except (EOFError, OSError):
                    raise RayActorError from None
                self._answers[answered] = (answer[0], answer[1])
            well, found = self._answers.pop(number)
        if not well:
            raise found
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self._calls.close()


def actors_of(kind: Callable[..., Any]) -> Any:
    """In place of `ray.remote(kind)`."""

    class Maker:
        @staticmethod
        def options(**_: Any) -> type[Maker]:
            return Maker

        @staticmethod
        def remote(*given: Any) -> ProcessActor:
            return ProcessActor(kind, given)

    return Maker


class InPlaceOfRay:
    """What `RemotePoller` asks of the module `ray`."""

    @staticmethod
    def get(call: Call, timeout: float | None = None) -> Any:
        return call.actor.answer(call.number, timeout or 60.0)

    @staticmethod
    def kill(actor: ProcessActor) -> None:
        actor.end()
