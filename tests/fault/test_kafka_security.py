"""TLS and SASL of every kind against a real Apache Kafka: the source, dead letters, the publisher and questions about topics alike.

One broker with a listener of each kind; tokens are signed by the test and granted by a small endpoint of its own.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink
from pipeline.errors import AccessRefused, BrokerUnavailable, ConfigurationError
from pipeline.kafka_client import KafkaConfig, admin_client
from pipeline.oauth import granted_tokens
from pipeline.publish import Publisher
from pipeline.records import DeadLetter, Disposition, Partition, Reason, Record
from pipeline.source import KafkaSource
from pipeline.topics import describe_topics
from tests.fault.conftest import ApacheKafka
from tests.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(180)]

LISTENERS = {"TLS": "SSL", "MUTUAL": "SSL", "ELSEWHERE": "SSL", "SASL": "SASL_SSL"}
USERS = "org.apache.kafka.common.security"
AUDIENCE, ISSUER = "kafka-of-news", "https://idp.example.org"


class Issuer:
    """Signs tokens, and grants them to memstream / s3cret."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.life_s = 600.0
        self.granted = 0
        self.url = ""

    def jwks(self) -> str:
        public = self._key.public_key().public_numbers()
        number = {"n": public.n, "e": public.e}
        parts = {name: _b64(value.to_bytes((value.bit_length() + 7) // 8, "big")) for name, value in number.items()}
        return json.dumps({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", **parts}]})

    def token(self, life_s: float | None = None) -> str:
        now_s = time.time()
        claims = {"sub": "memstream", "iss": ISSUER, "aud": AUDIENCE, "iat": int(now_s) - 60, "scope": "kafka"}
        claims["exp"] = int(now_s + (self.life_s if life_s is None else life_s))
        signed = ".".join(_b64(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one", "typ": "JWT"}, claims))
        return f"{signed}.{_b64(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def answer(self, authorization: str, form: dict[str, list[str]]) -> tuple[int, bytes]:
        if base64.b64decode(authorization.removeprefix("Basic ")) != b"memstream:s3cret":
            return 401, b'{"error": "invalid_client"}'
        assert form["grant_type"] == ["client_credentials"]
        self.granted += 1
        return 200, json.dumps({"access_token": self.token(), "expires_in": self.life_s}).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Secured:
    """The broker, its ports, and what a client may have in hand."""

    broker: ApacheKafka
    ports: dict[str, int]
    issuer: Issuer
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def config(self, listener: str, **more: object) -> KafkaConfig:
        """At a listener, trusting its CA."""
        security = {"bootstrap_servers": f"127.0.0.1:{self.ports[listener]}", "security_protocol": LISTENERS[listener]}
        return self.broker.config(**{**security, "ssl_cafile": str(self.folder / "ca.pem"), "start_timeout_s": 1.0, **more})

    def mutual(self) -> KafkaConfig:
        return self.config("MUTUAL", ssl_certfile=str(self.folder / "client.pem"), ssl_keyfile=str(self.folder / "client.key"))

    def password(self, mechanism: str, **more: object) -> KafkaConfig:
        user = {"sasl_mechanism": mechanism, "sasl_plain_username": "reader", "sasl_plain_password": "${KAFKA_PASSWORD}"}
        return self.config("SASL", **{**user, **more})

    def granted(self, **more: object) -> KafkaConfig:
        client = {"sasl_oauth_token_url": self.issuer.url, "sasl_oauth_client_id": "memstream", "sasl_oauth_scope": "kafka"}
        return self.config("SASL", **{"sasl_mechanism": "OAUTHBEARER", **client, "sasl_oauth_client_secret": "${CLIENT_SECRET}", **more})

    def token_file(self) -> KafkaConfig:
        return self.config("SASL", sasl_mechanism="OAUTHBEARER", sasl_oauth_token_file=str(self.folder / "token"))


@pytest.fixture(scope="module")
def secured(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    issuer = Issuer()
    with closing(_endpoint(issuer)) as server:
        issuer.url = f"http://127.0.0.1:{server.server_address[1]}/token"
        _write_certificates(folder)
        (folder / "jwks.json").write_text(issuer.jwks())
        jwks = (folder / "jwks.json").as_uri()
        ports = {name: free_port() for name in LISTENERS}
        broker = ApacheKafka(
            folder / "broker",
            lambda port: _settings(folder, ports, port, jwks),
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks} -Dorg.apache.kafka.sasl.oauthbearer.allowed.files={folder}/jwks.json",
        )
        broker.start()
        try:
            broker.await_answer(broker.config())
            yield Secured(broker, ports, issuer, folder)
        finally:
            broker.kill()


class _Server(ThreadingHTTPServer):
    def close(self) -> None:
        self.shutdown()
        self.server_close()


def _endpoint(issuer: Issuer) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, answer = issuer.answer(self.headers["Authorization"], parse_qs(body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None: ...

    server = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _write_certificates(folder: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    for name, host in (("here", "127.0.0.1"), ("elsewhere", "broker.example.org")):
        leaf = ca.issue_cert(host)
        (folder / f"{name}.pem").write_bytes(_pkcs8(leaf) + b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    for name, authority in (("client", ca), ("stranger", other)):
        leaf = authority.issue_cert("memstream.example.org")
        (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")


def _pkcs8(leaf: trustme.LeafCert) -> bytes:
    """Java reads no other encoding of a key."""
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _settings(folder: Path, ports: dict[str, int], port: int, jwks: str) -> Sequence[str]:
    listeners = [f"{name}://127.0.0.1:{each}" for name, each in ports.items()]
    sasl = "listener.name.sasl"
    return [
        f"listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1},{','.join(listeners)}",
        f"advertised.listeners=CLIENT://127.0.0.1:{port},{','.join(listeners)}",
        "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        + ",".join(f"{name}:{protocol}" for name, protocol in LISTENERS.items()),
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={folder}/here.pem",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={folder}/ca.pem",
        "listener.name.mutual.ssl.client.auth=required",
        "listener.name.elsewhere.ssl.keystore.type=PEM",
        f"listener.name.elsewhere.ssl.keystore.location={folder}/elsewhere.pem",
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        f'{sasl}.plain.sasl.jaas.config={USERS}.plain.PlainLoginModule required user_reader="s3cret";',
        *(f"{sasl}.scram-sha-{bits}.sasl.jaas.config={USERS}.scram.ScramLoginModule required;" for bits in (256, 512)),
        f"{sasl}.oauthbearer.sasl.jaas.config={USERS}.oauthbearer.OAuthBearerLoginModule required;",
        f"{sasl}.oauthbearer.sasl.server.callback.handler.class={USERS}.oauthbearer.OAuthBearerValidatorCallbackHandler",
        f"{sasl}.oauthbearer.connections.max.reauth.ms=3600000",
        f"sasl.oauthbearer.jwks.endpoint.url={jwks}",
        f"sasl.oauthbearer.expected.audience={AUDIENCE}",
        f"sasl.oauthbearer.expected.issuer={ISSUER}",
        *(f"SCRAM-SHA-{bits}=[name=reader,password=s3cret]" for bits in (256, 512)),
    ]


@pytest.fixture(autouse=True)
def secrets(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    granted_tokens.cache_clear()
    secured.issuer.life_s = 600.0
    (secured.folder / "token").write_text(secured.issuer.token())
    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    monkeypatch.setenv("CLIENT_SECRET", "s3cret")


def kinds(secured: Secured) -> dict[str, KafkaConfig]:
    passwords = {name: secured.password(name) for name in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")}
    return {
        "TLS": secured.config("TLS"),
        "mutual TLS": secured.mutual(),
        **passwords,
        "token endpoint": secured.granted(),
        "token file": secured.token_file(),
    }


KINDS = ("TLS", "mutual TLS", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "token endpoint", "token file")


def published(config: KafkaConfig, text: str) -> None:
    with Publisher(config, config.topics[0]) as publisher:
        publisher.publish_one({"text": text})


def read(config: KafkaConfig, count: int) -> list[Any]:
    """So many values, in time."""
    found: list[Any] = []
    deadline_s = time.monotonic() + 30
    with KafkaSource(config) as source:
        while len(found) < count:
            assert time.monotonic() < deadline_s, source.facts
            found.extend(record.value for record in source.poll(1 << 20, 0.2).records)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_speaks_to_the_broker_is_let_in(secured: Secured, kind: str) -> None:
    config = kinds(secured)[kind]
    config = config.model_copy(update={"group_id": f"group-{config.topics[0]}"})
    published(config, "News.")
    assert [json.loads(value) for value in read(config, 1)] == [{"text": "News."}]
    with KafkaSource(config) as source:
        source.poll(1 << 20, 1.0)
        source.commit({Partition(config.topics[0], 0): 1}, "epoch 1")
    record = Record(partition=Partition(config.topics[0], 0), offset=0, timestamp_ms=0, value=b"{")
    with DeadLetterSink(config, DeadLetterConfig()) as sink:
        sink.send(DeadLetter(record=record, reason=Reason.BAD_JSON, disposition=Disposition.MALFORMED, detail="no end"))
        sink.flush(20)
    assert read(config.model_copy(update={"topics": (f"{config.topics[0]}.dead-letters",)}), 1) == [b"{"]
    assert describe_topics(config, config.topics)[config.topics[0]].partitions == {0}
    with admin_client(config) as admin:
        assert "offset=1" in repr(admin.list_group_offsets(config.group_id))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_is_said_and_mended_without_a_restart(secured: Secured, mechanism: str) -> None:
    secret = secured.folder / "password"
    secret.write_text("wrong\n")
    config = secured.password(mechanism, sasl_plain_password=f"${{file:{secret}}}")
    said = r"does not take the password of reader \(.*\); check kafka\.sasl_plain_username, sasl_plain_password"
    with KafkaSource(config) as source:
        with pytest.raises(AccessRefused, match=said) as caught:
            source.connect()
        assert caught.value.retriable and "wrong" not in str(caught.value).lower()
        secret.write_text("s3cret\n")
        published(config, "News.")
        source.connect()
    with pytest.raises(AccessRefused, match=said.replace("reader", "stranger")):
        Publisher(secured.password(mechanism, sasl_plain_username="stranger"), "news")


def test_a_client_secret_that_is_not_taken_is_said(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", "wrong")
    with (
        KafkaSource(secured.granted()) as source,
        pytest.raises(AccessRefused, match=r"answered 401 \(invalid_client\); check kafka\.sasl_"),
    ):
        source.connect()
    nowhere = secured.granted(sasl_oauth_token_url="http://127.0.0.1:1/")
    said = r"no token from http://127\.0\.0\.1:1/: .*check kafka\.sasl_oauth_token_url"
    with KafkaSource(nowhere) as source, pytest.raises(AccessRefused, match=said):
        source.connect()


def test_an_expired_token_is_said_and_a_fresh_one_is_read(secured: Secured) -> None:
    config = secured.token_file()
    (secured.folder / "token").write_text(secured.issuer.token(life_s=-30))
    with KafkaSource(config) as source:
        with pytest.raises(AccessRefused, match=r"does not take our token \(.*\); check that it is not expired"):
            source.connect()
        (secured.folder / "token").write_text(secured.issuer.token())
        published(config, "News.")
        source.connect()
    (secured.folder / "token").unlink()
    with KafkaSource(config) as source, pytest.raises(ConfigurationError, match=r"kafka\.sasl_oauth_token_file: cannot read"):
        source.connect()


def test_tokens_are_renewed_while_a_stream_is_read(secured: Secured) -> None:
    secured.issuer.life_s = 6.0
    config = secured.granted()
    published(config, "1")
    before = secured.issuer.granted
    found: list[Any] = []
    deadline_s = time.monotonic() + 60
    with KafkaSource(config) as source, Publisher(config, config.topics[0]) as publisher:
        for number in range(2, 8):
            time.sleep(2.0)
            publisher.publish_one({"text": str(number)})
            found.extend(record.value for record in source.poll(1 << 20, 0.5).records)
        while len(found) < 7:
            assert time.monotonic() < deadline_s
            found.extend(record.value for record in source.poll(1 << 20, 0.5).records)
    assert [json.loads(value)["text"] for value in found] == list("1234567")
    assert secured.issuer.granted > before, "the broker asks for a new token before the old one ends (KIP-368)"


@pytest.mark.parametrize(
    ("listener", "change", "said"),
    [
        ("TLS", {"ssl_cafile": "other-ca.pem"}, r"its certificate is not to be trusted: .*; check kafka\.ssl_cafile"),
        ("ELSEWHERE", {}, r"its certificate is not to be trusted: .*127\.0\.0\.1.*bears the name 127\.0\.0\.1"),
        ("MUTUAL", {}, r"refused our certificate, or that we have none .*; check kafka\.ssl_certfile and kafka\.ssl_keyfile"),
        ("MUTUAL", {"ssl_certfile": "stranger.pem", "ssl_keyfile": "stranger.key"}, r"refused our certificate.*check kafka\.ssl_certfile"),
        ("SASL", {"security_protocol": "SSL"}, r"kafka\.security_protocol is probably SASL_SSL"),
    ],
)
def test_certificates_that_do_not_fit_are_said(secured: Secured, listener: str, change: dict[str, str], said: str) -> None:
    files = {name: str(secured.folder / value) if name.startswith("ssl_") else value for name, value in change.items()}
    config = secured.config(listener, **{**({"security_protocol": "SSL"} if listener != "SASL" else {}), **files})
    with KafkaSource(config) as source, pytest.raises(BrokerUnavailable, match=said):
        source.connect()


def test_a_name_that_is_not_in_the_certificate_passes_where_that_is_asked_for(secured: Secured) -> None:
    published(secured.config("ELSEWHERE", ssl_check_hostname=False), "News.")


def test_a_mechanism_that_the_broker_does_not_have_is_said(secured: Secured) -> None:
    plain = secured.broker.config(security_protocol="SASL_PLAINTEXT", start_timeout_s=1.0, **_user("SCRAM-SHA-256"))
    with KafkaSource(plain) as source, pytest.raises(BrokerUnavailable):
        source.connect()


def _user(mechanism: str) -> dict[str, str]:
    return {"sasl_mechanism": mechanism, "sasl_plain_username": "reader", "sasl_plain_password": "${KAFKA_PASSWORD}"}
