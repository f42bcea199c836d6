"""Why a broker does not answer, in words that name the cure: looked at before any client is made.

    resolve -> connect -> (TLS handshake) -> ApiVersions -> (SASL) -> Metadata -> resolve and connect what the brokers advertise

kafka-python tries again whatever went wrong, most of it without a word (a wrong password, too), and against a port that accepts and never
answers without end. So one plain connection asks first, within `kafka.request_timeout_s`, and says what it saw. (Formats: Kafka protocol
guide, ApiVersions v0, SaslHandshake v1, SaslAuthenticate v0 and Metadata v1.)
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka.net.sasl import get_sasl_mechanism

from pipeline.addresses import Address, address_of
from pipeline.errors import AccessRefused, BrokerUnavailable, ConfigurationError

log = logging.getLogger(__name__)

KAFKA_PORT = 9092
LONGEST_PROBE_S = 5.0
_MOST_ANSWER_BYTES = 8 << 20
_API_VERSIONS, _METADATA, _SASL_HANDSHAKE, _SASL_AUTHENTICATE = 18, 3, 17, 36
_MOST_SASL_STEPS = 8
_TLS_ALERT, _TLS_HANDSHAKE = 0x15, 0x16


class _Fault(Exception):
    """What was seen; the message says what to do."""


class _HungUp(_Fault):
    """The connection ended where an answer should be."""


def broker_address(server: str) -> Address:
    """Where a broker is; its port is 9092 where none is given. Raises ValueError.

    >>> str(broker_address("one"))
    'one:9092'
    """
    if "://" in server and "@" not in server:
        raise ValueError(f"{server!r}: brokers are named HOST:PORT, without {server.partition('://')[0]}://")
    return address_of(server, KAFKA_PORT)


def require_answer(servers: Sequence[str], security: Mapping[str, Any], timeout_s: float) -> None:
    """Return once one of the servers has answered as a Kafka broker that can be worked with.

    Args:
        security: kafka-python's options of the same names (security_protocol, ssl_cafile, ...), secrets resolved.

    Raises:
        BrokerUnavailable: none did; of each, what was seen and what to do.
        AccessRefused: one did, and does not take the password or token.
        ConfigurationError: a certificate's file cannot be used.
    """
    protocol = str(security.get("security_protocol", "PLAINTEXT"))
    context = tls_context(security) if protocol.endswith("SSL") else None
    deadline_s = time.monotonic() + min(timeout_s, LONGEST_PROBE_S)
    faults = []
    for number, server in enumerate(servers):
        left_s = max(0.2, (deadline_s - time.monotonic()) / (len(servers) - number))
        try:
            _probe(broker_address(server), context, security, time.monotonic() + left_s)
            return
        except _Fault as fault:
            faults.append(f"{server}: {fault}")
    raise BrokerUnavailable("no broker answers; " + "; ".join(faults))


def tls_context(security: Mapping[str, Any], section: str = "kafka") -> ssl.SSLContext:
    """The context that kafka-python would make. Raises ConfigurationError that names the file, and its key in `section`."""
    context = ssl.create_default_context()
    context.check_hostname = bool(security.get("ssl_check_hostname", True))
    try:
        if security.get("ssl_cafile"):
            context.load_verify_locations(security["ssl_cafile"])
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{section}.ssl_cafile: {security['ssl_cafile']} holds no CA certificates in PEM: {error}") from error
    if security.get("ssl_certfile"):
        try:
            context.load_cert_chain(security["ssl_certfile"], security.get("ssl_keyfile"), lambda: security.get("ssl_password") or "")
        except (OSError, ssl.SSLError) as error:
            files = " and ".join(str(security[name]) for name in ("ssl_certfile", "ssl_keyfile") if security.get(name))
            raise ConfigurationError(f"{section}.ssl_certfile, {section}.ssl_keyfile: {files} do not make a pair: {error}") from error
    return context


def _probe(address: Address, context: ssl.SSLContext | None, security: Mapping[str, Any], deadline_s: float) -> None:
    sasl = str(security.get("security_protocol", "PLAINTEXT")).startswith("SASL")
    with _connected(address, deadline_s) as plain:
        wire = plain if context is None else _secured(plain, context, address, deadline_s)
        with wire:
            _ask(wire, _API_VERSIONS, 0, b"", deadline_s, context is not None)
            if sasl:
                _let_in(wire, address, security, deadline_s, context is not None)
            try:
                answer = _ask(wire, _METADATA, 1, struct.pack(">i", 0), deadline_s, context is not None)
            except _Fault:
                if sasl:
                    raise
                raise _Fault(
                    "it answers, but tells nothing to the unknown: kafka.security_protocol is probably SASL_SSL or SASL_PLAINTEXT there"
                ) from None
    _require_reachable(advertised(answer), deadline_s)


def _let_in(wire: socket.socket, address: Address, security: Mapping[str, Any], deadline_s: float, secured: bool) -> None:
    """Say who we are. kafka-python's own mechanisms do it, so what works here works there."""
    name = str(security["sasl_mechanism"])
    _require_mechanism(_ask(wire, _SASL_HANDSHAKE, 1, _sized(name.encode(), ">h"), deadline_s, secured), name)
    mechanism = get_sasl_mechanism(name)(host=address.host, **security)
    told = ""
    for _ in range(_MOST_SASL_STEPS):
        try:
            answer = _ask(wire, _SASL_AUTHENTICATE, 0, _sized(mechanism.auth_bytes(), ">i"), deadline_s, secured)
        except _HungUp as fault:
            raise _refused(address, name, security, told or "it hangs up without a word") from fault
        error, message, challenge = _authenticated(answer)
        if error:
            raise _refused(address, name, security, told or message)
        told = challenge.decode("utf-8", "replace") if name == "OAUTHBEARER" else ""
        try:
            mechanism.receive(challenge)
        except (ValueError, KeyError, IndexError) as fault:
            raise _Fault(f"what it answers to {name} is not understood: {fault}") from fault
        if mechanism.is_done():
            break
    if not mechanism.is_authenticated():
        raise _refused(address, name, security, told or "it does not say why")


def _refused(address: Address, mechanism: str, security: Mapping[str, Any], told: str) -> AccessRefused:
    if mechanism == "OAUTHBEARER":
        security["sasl_oauth_token_provider"].forget()
        what, check = "our token", "that it is not expired and meant for this broker (issuer, audience, scope), kafka.sasl_oauth_*"
    else:
        what, check = f"the password of {security['sasl_plain_username']}", "kafka.sasl_plain_username, sasl_plain_password, sasl_mechanism"
    return AccessRefused(f"{address} does not take {what} ({told[:200]}); check {check}")


def _require_mechanism(answer: bytes, name: str) -> None:
    try:
        error, count = struct.unpack_from(">hi", answer)
        place, taken = 6, []
        for _ in range(min(count, 100)):
            (length,) = struct.unpack_from(">h", answer, place)
            taken.append(answer[place + 2 : place + 2 + length].decode("ascii", "replace"))
            place += 2 + length
    except struct.error as fault:
        raise _Fault("its answer to SaslHandshake is not understood") from fault
    if error:
        raise _Fault(f"it does not take {name}, but {', '.join(taken) or 'nothing'}; set kafka.sasl_mechanism")


def _authenticated(answer: bytes) -> tuple[int, str, bytes]:
    """Error, message and challenge of a SaslAuthenticate answer."""
    try:
        error, length = struct.unpack_from(">hh", answer)
        place = 4 + max(length, 0)
        (size,) = struct.unpack_from(">i", answer, place)
    except struct.error as fault:
        raise _Fault("its answer to SaslAuthenticate is not understood") from fault
    return error, answer[4:place].decode("utf-8", "replace"), answer[place + 4 : place + 4 + max(size, 0)]


def _sized(data: bytes, format: str) -> bytes:
    return struct.pack(format, len(data)) + data


def _connected(address: Address, deadline_s: float) -> socket.socket:
    try:
        return socket.create_connection((address.host, address.port), timeout=_left_s(deadline_s))
    except socket.gaierror as error:
        raise _Fault(f"the name {address.host} cannot be resolved here ({error.strerror}); check kafka.bootstrap_servers") from error
    except ConnectionRefusedError as error:
        raise _Fault("nobody listens there; check kafka.bootstrap_servers and that the broker runs") from error
    except TimeoutError as error:
        raise _Fault("nothing comes back, not even a refusal; a firewall, or another network's address") from error
    except (OSError, UnicodeError) as error:
        raise _Fault(f"it cannot be reached from here: {error}") from error


def _secured(plain: socket.socket, context: ssl.SSLContext, address: Address, deadline_s: float) -> ssl.SSLSocket:
    plain.settimeout(_left_s(deadline_s))
    try:
        return context.wrap_socket(plain, server_hostname=address.host)
    except ssl.SSLCertVerificationError as error:
        raise _Fault(
            f"its certificate is not to be trusted: {error.verify_message}; check kafka.ssl_cafile, and that the certificate bears the name"
            f" {address.host}"
        ) from error
    except TimeoutError as error:
        raise _Fault(
            "it accepts connections and does not answer to TLS: a plain port, or no broker; check kafka.security_protocol"
        ) from error
    except (ssl.SSLError, OSError) as error:
        told = str(error).lower()
        if "certificate" in told or "alert" in told:
            raise _Fault(f"it refused our certificate or our TLS ({error}); check kafka.ssl_certfile and kafka.ssl_keyfile") from error
        raise _Fault(f"it speaks no TLS ({error}): a plain port; check kafka.security_protocol") from error


def _ask(wire: socket.socket, key: int, version: int, body: bytes, deadline_s: float, secured: bool) -> bytes:
    """One request and its answer, without the length in front."""
    client = b"memstream"
    head = struct.pack(">hhih", key, version, 1, len(client)) + client
    try:
        wire.settimeout(_left_s(deadline_s))
        wire.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        start = _received(wire, 4, deadline_s)
        if not secured and start[0] in (_TLS_ALERT, _TLS_HANDSHAKE) and start[1] == 3:
            raise _Fault("it speaks TLS; set kafka.security_protocol to SSL or SASL_SSL")
        if start in (b"HTTP", b"<htm", b"<!DO"):
            raise _Fault("a web server answers there, no broker; check the port in kafka.bootstrap_servers")
        (size,) = struct.unpack(">i", start)
        if not 4 <= size <= _MOST_ANSWER_BYTES:
            raise _Fault("what answers there is no Kafka broker; check the port in kafka.bootstrap_servers")
        answer = _received(wire, size, deadline_s)
    except TimeoutError as error:
        raise _Fault("it accepts connections and never answers: no broker, or one that hangs, or a TLS port") from error
    except ssl.SSLError as error:  # with TLS 1.3 it says so only once it is asked something
        raise _Fault(
            f"it refused our certificate, or that we have none ({error}); check kafka.ssl_certfile and kafka.ssl_keyfile"
        ) from error
    except (EOFError, OSError) as error:
        raise _HungUp("it hangs up on us: no broker, or one that wants TLS or a password; check kafka.security_protocol") from error
    if answer[:4] != struct.pack(">i", 1):
        raise _Fault("what answers there is no Kafka broker; check the port in kafka.bootstrap_servers")
    return answer[4:]


def _received(wire: socket.socket, size: int, deadline_s: float) -> bytes:
    parts = b""
    while len(parts) < size:
        wire.settimeout(_left_s(deadline_s))
        part = wire.recv(min(size - len(parts), 1 << 16))
        if not part:
            raise EOFError
        parts += part
    return parts


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def advertised(answer: bytes) -> list[Address]:
    """The brokers that a Metadata v1 answer names; none where it cannot be read."""
    try:
        (count,), place, found = struct.unpack_from(">i", answer), 4, []
        for _ in range(min(count, 10_000)):
            _, length = struct.unpack_from(">ih", answer, place)
            host = answer[place + 6 : place + 6 + length].decode()
            (port,) = struct.unpack_from(">i", answer, place + 6 + length)
            (rack,) = struct.unpack_from(">h", answer, place + 10 + length)
            place += 12 + length + max(rack, 0)
            found.append(Address(host, port))
    except (struct.error, UnicodeDecodeError) as error:
        log.debug("cannot read what the broker advertises: %s", error)
        return []
    return found


def _require_reachable(addresses: Sequence[Address], deadline_s: float) -> None:
    """At least one of the brokers that everything else will be asked of."""
    faults = []
    for address in addresses[:16]:
        try:
            _connected(address, max(deadline_s, time.monotonic() + 0.5)).close()
            return
        except _Fault as fault:
            faults.append(f"{address} ({fault})")
    if faults:
        raise _Fault(
            f"it answers, but tells clients to go to {', '.join(faults)}: that is the broker's advertised.listeners, which must be"
            " addresses that can be reached from here"
        )
