"""Why a broker does not answer: each of the usual mistakes has its own message, within the time that is allowed."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme

from pipeline.addresses import Address
from pipeline.errors import AccessRefused, BrokerUnavailable, ConfigurationError
from pipeline.reachability import advertised, broker_address, require_answer
from tests.doubles.ports import Listen, Serve, answering, ports, silent


def hangs_up(connection: socket.socket) -> None:
    connection.recv(1)


web = answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
noise = answering(b"\xff" * 64)


def broker(host: str = "127.0.0.1", port: int | None = None, knows_us: bool = True, password: bytes | None = None) -> Serve:
    """Answers ApiVersions, SASL PLAIN where there is a password, and Metadata with one broker at HOST:PORT (none: where it listens)."""

    def serve(connection: socket.socket) -> None:
        while head := connection.recv(4):
            request = connection.recv(struct.unpack(">i", head)[0])
            key, _, correlation = struct.unpack_from(">hhi", request)
            if key == 3 and not knows_us:
                return
            if key in (17, 36) and password is not None:
                body = struct.pack(">hih", 0, 1, 5) + b"PLAIN" if key == 17 else struct.pack(">hhi", 0, -1, 0)
                if key == 17 and b"PLAIN" not in request:
                    body = struct.pack(">h", 33) + body[2:]
                if key == 36 and password == b"":
                    return
                if key == 36 and not request.endswith(b"\0" + password):
                    body = struct.pack(">hh", 58, 9) + b"who's you" + struct.pack(">i", 0)
                connection.sendall(struct.pack(">ii", 4 + len(body), correlation) + body)
                continue
            there = connection.getsockname()[1] if port is None else port
            name = host.encode()
            row = struct.pack(">ih", 1, len(name)) + name + struct.pack(">ih", there, -1)
            body = struct.pack(">h", 0) + struct.pack(">i", 0) if key == 18 else struct.pack(">i", 1) + row + struct.pack(">ii", 1, 0)
            connection.sendall(struct.pack(">ii", 4 + len(body), correlation) + body)

    return serve


@pytest.fixture
def listening() -> Iterator[Listen]:
    with ports() as listen:
        yield listen


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def seen(server: str, security: Mapping[str, str] | None = None, timeout_s: float = 2.0) -> str:
    """What is said of one server, which must be said in time."""
    began_s = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        require_answer([server], security or {}, timeout_s)
    assert time.monotonic() - began_s < timeout_s + 1.5
    return str(caught.value)


def test_a_broker_that_can_be_worked_with_is_no_matter(listening: Listen, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    require_answer([listening(broker())], {}, 2.0)
    require_answer(["127.0.0.1:1", listening(broker())], {}, 2.0)
    require_answer([listening(broker(), tls(authority))], {"security_protocol": "SSL", "ssl_cafile": str(ca)}, 2.0)
    require_answer([listening(broker(password=b"s3cret"))], SASL, 2.0)


SASL = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "PLAIN",
    "sasl_plain_username": "reader",
    "sasl_plain_password": "s3cret",
}


def test_a_password_that_is_not_taken_is_said_with_the_brokers_words(listening: Listen) -> None:
    with pytest.raises(AccessRefused, match=r"does not take the password of reader \(who's you\); check kafka\.sasl_plain_username"):
        require_answer([listening(broker(password=b"another"))], SASL, 2.0)
    assert "does not take SCRAM-SHA-256, but PLAIN; set kafka.sasl_mechanism" in seen(
        listening(broker(password=b"s3cret")), {**SASL, "sasl_mechanism": "SCRAM-SHA-256"}
    )
    assert "s3cret" not in seen(listening(broker(password=b"another")), SASL)
    with pytest.raises(AccessRefused, match=r"does not take the password of reader \(it hangs up without a word\)"):
        require_answer([listening(broker(password=b""))], SASL, 2.0)


def test_what_is_advertised_is_looked_at_behind_a_password_too(listening: Listen) -> None:
    assert "advertised.listeners" in seen(listening(broker("127.0.0.1", 1, password=b"s3cret")), SASL)


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (silent, "accepts connections and never answers"),
        (hangs_up, "hangs up on us"),
        (web, "a web server answers there"),
        (noise, "no Kafka broker"),
        (broker(knows_us=False), "kafka.security_protocol is probably SASL_SSL or SASL_PLAINTEXT"),
        (broker(host="broker.invalid"), "advertised.listeners"),
        (broker(port=1), "advertised.listeners"),
    ],
)
def test_each_mistake_has_its_own_message(listening: Listen, serve: Serve, said: str) -> None:
    assert said in seen(listening(serve))


def test_an_advertised_name_is_told_with_what_is_wrong_with_it(listening: Listen) -> None:
    said = seen(listening(broker(host="kafka-0.kafka.invalid", port=9092)))
    assert "kafka-0.kafka.invalid:9092 (the name kafka-0.kafka.invalid cannot be resolved here" in said


def test_addresses_where_nobody_is(listening: Listen) -> None:
    assert "nobody listens there" in seen("127.0.0.1:1")
    assert "cannot be resolved here" in seen("no-such-broker.invalid:9092")


def test_tls_to_the_wrong_port_and_no_tls_to_the_right_one(listening: Listen, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    secured = {"security_protocol": "SSL", "ssl_cafile": str(ca)}
    assert "does not answer to TLS" in seen(listening(silent), secured)
    assert "speaks no TLS" in seen(listening(noise), secured)
    assert "kafka.security_protocol" in seen(listening(broker(), tls(authority)))
    assert "not to be trusted" in seen(listening(broker(), tls(trustme.CA())), secured)
    assert "bears the name 127.0.0.1" in seen(listening(broker(), tls(authority, "other.example")), secured)


def test_certificates_that_cannot_be_used_are_named_by_their_keys(authority: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("not a certificate")
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_cafile: .*no CA certificates"):
        require_answer(["127.0.0.1:1"], {"security_protocol": "SSL", "ssl_cafile": str(tmp_path / "no.pem")}, 1.0)
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_certfile"):
        require_answer(["127.0.0.1:1"], {"security_protocol": "SSL", "ssl_certfile": str(tmp_path / "no.pem")}, 1.0)


def test_a_silent_port_among_several_costs_its_part_of_the_time(listening: Listen) -> None:
    began_s = time.monotonic()
    require_answer([listening(silent), listening(broker())], {}, 4.0)
    assert time.monotonic() - began_s < 4.0


@pytest.mark.parametrize("server", ["http://one:9092", "one:port", "one:0", "one:70000", ":9092", ""])
def test_what_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT"):
        broker_address(server)


def test_answers_that_cannot_be_read_advertise_nothing() -> None:
    assert advertised(b"") == advertised(struct.pack(">iih", 2, 1, 90) + b"one") == []
    assert advertised(struct.pack(">iih", 1, 1, 3) + b"one" + struct.pack(">ih", 9092, 2) + b"eu") == [Address("one", 9092)]
