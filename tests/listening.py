"""Which of a process's descendants listen where, as the kernel tells it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LISTEN = "0A"


class Listener(NamedTuple):
    """One listening TCP socket."""

    pid: int
    command: str
    address: str
    port: int


def commands_of(root: int) -> list[str]:
    """The commands of a process and all that descend from it."""
    return [_command(pid) for pid in {root, *_descendants(root)}]


def listeners(root: int) -> list[Listener]:
    """Of a process and all that descend from it."""
    sockets = dict(_sockets())
    found = []
    for pid in {root, *_descendants(root)}:
        with suppress(OSError):
            command = _command(pid)
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    inode = str(link.readlink()).removeprefix("socket:[").rstrip("]")
                    if inode in sockets:
                        found.append(Listener(pid, command, *sockets[inode]))
    return found


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return ""


def is_loopback(address: str) -> bool:
    number = ipaddress.ip_address(address)
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return (mapped or number).is_loopback


def _sockets() -> Iterator[tuple[str, tuple[str, int]]]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, port = fields[1].split(":")
                yield fields[9], (_address(address), int(port, 16))


def _address(text: str) -> str:
    """The kernel writes each 32 bits in the machine's order."""
    words = b"".join(bytes.fromhex(text[place : place + 8])[::-1] for place in range(0, len(text), 8))
    return str(ipaddress.ip_address(words))


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            waiting.append(child)
            yield child
