"""HOST:PORT as people write it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(text: str, default_port: int | None = None) -> Address:
    """`HOST:PORT`, `[V6]:PORT`; without a port only where there is a default. Raises ValueError.

    >>> str(address_of("one:9093")), str(address_of("[::1]", 9092)), str(address_of("one", 9092))
    ('one:9093', '[::1]:9092', 'one:9092')
    """
    if "@" in text:
        raise ValueError("an address with a user or a password in it: they do not belong there, where they are shown")
    host, separator, port = text.strip().rpartition(":")
    bare_v6 = text.strip().endswith("]") or (":" in host and not host.startswith("["))
    if default_port is not None and (not separator or bare_v6):
        host, port = text.strip(), str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or "[" in host or "]" in host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no HOST:PORT")
    return Address(host, int(port))
