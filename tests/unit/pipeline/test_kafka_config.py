import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.config import parse_config
from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink, letter_headers
from pipeline.errors import AccessRefused, BrokerUnavailable, ConfigurationError, StreamError
from pipeline.kafka_client import KafkaConfig, connection_options, kafka_errors, translated
from pipeline.records import DeadLetter, Disposition, Partition, Reason, Record

PLAIN = KafkaConfig(bootstrap_servers=("one:9092",), topics=("news",))


def test_bootstrap_servers_may_be_one_comma_separated_text() -> None:
    config = KafkaConfig.model_validate({"bootstrap_servers": "one:9092, two:9092", "topics": ["news"]})
    assert config.bootstrap_servers == ("one:9092", "two:9092")


@pytest.mark.parametrize("wrong", [{"topics": []}, {"bootstrap_servers": ""}, {"starts": "earliest"}, {"on_data_loss": "ignore"}])
def test_what_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KafkaConfig.model_validate({"bootstrap_servers": "one:9092", "topics": ["news"], **wrong})


def test_secrets_come_from_the_environment_when_a_connection_is_made() -> None:
    config = KafkaConfig(
        bootstrap_servers=("one:9092",),
        topics=("news",),
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-256",
        sasl_plain_username="${FEED_USER}",
        sasl_plain_password="${FEED_PASSWORD}",
    )
    options = connection_options(config, {"FEED_USER": "reader", "FEED_PASSWORD": "s3cret"})
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("reader", "s3cret")
    assert "s3cret" not in config.model_dump_json()


def test_a_missing_environment_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl_plain_password: .* FEED_PASSWORD is not set"):
        connection_options(KafkaConfig.model_validate(SASL), {})


SASL = {
    "bootstrap_servers": "one:9092",
    "topics": ["news"],
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "PLAIN",
    "sasl_plain_username": "reader",
    "sasl_plain_password": "${FEED_PASSWORD}",
}


@pytest.mark.parametrize("secret", ["s3cret", "prefix-${NAME}", "${not a name}", ""])
def test_a_secret_in_clear_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config({"kafka": {**SASL, "sasl_plain_password": secret}})
    assert "kafka.sasl_plain_password: a secret is not written into a configuration" in str(caught.value)
    assert not secret or secret not in str(caught.value)


def test_a_secret_may_be_in_a_file_that_is_read_when_a_connection_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = KafkaConfig.model_validate({**SASL, "sasl_plain_password": "${file:secret}"})
    monkeypatch.chdir("/")
    with pytest.raises(ConfigurationError, match=rf"kafka\.sasl_plain_password: cannot read {tmp_path}/secret"):
        connection_options(config, {})
    (tmp_path / "secret").write_text("s3cret\n")
    assert connection_options(config, {})["sasl_plain_password"] == "s3cret"
    assert b"s3cret" not in pickle.dumps(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sasl_mechanism": None}, "needs sasl_mechanism"),
        ({"sasl_plain_password": None}, "needs sasl_plain_password"),
        ({"security_protocol": "PLAINTEXT"}, "sasl_mechanism is not used with security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL"}, "sasl_mechanism is not used with security_protocol SSL"),
        ({"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": "/ca.pem"}, "ssl_cafile is not used"),
        ({"bootstrap_servers": "https://one:9092"}, "HOST:PORT"),
        ({"bootstrap_servers": "one:kafka"}, "HOST:PORT"),
    ],
)
def test_keys_that_cannot_work_together_are_refused_at_once(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_config({"kafka": {**SASL, **change}})


def test_a_certificate_that_is_not_there_is_no_matter_of_the_brokers() -> None:
    config = KafkaConfig(bootstrap_servers=("one:9092",), topics=("news",), security_protocol="SSL", ssl_cafile="/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_cafile: there is no file /nowhere/ca\.pem on "):
        connection_options(config, {})


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka_errors.KafkaTimeoutError("slow"), BrokerUnavailable),
        (kafka_errors.KafkaConnectionError("gone"), BrokerUnavailable),
        (kafka_errors.SaslAuthenticationFailedError("who?"), AccessRefused),
        (kafka_errors.TopicAuthorizationFailedError({"news"}), ConfigurationError),
        (kafka_errors.UnsupportedCodecError("zip"), ConfigurationError),
        (kafka_errors.UnknownError("?"), StreamError),
    ],
)
def test_errors_of_kafka_become_ours(error: Exception, ours: type[Exception]) -> None:
    assert type(translated(error, PLAIN)) is ours


def letter(**changes: object) -> DeadLetter:
    record = Record(
        partition=Partition("news", 2), offset=41, timestamp_ms=5, value=b"{", headers=(("trace", b"1"), ("memstream.reason", b"old"))
    )
    told = {"record": record, "reason": Reason.BAD_JSON, "disposition": Disposition.MALFORMED, "detail": "no end", **changes}
    return DeadLetter(**told)  # type: ignore[arg-type]


def test_a_letter_says_where_it_came_from_and_why() -> None:
    headers = letter_headers(letter())
    assert dict(headers) == {
        "memstream.reason": b"bad_json",
        "memstream.disposition": b"malformed",
        "memstream.topic": b"news",
        "memstream.partition": b"2",
        "memstream.offset": b"41",
        "memstream.timestamp_ms": b"5",
        "memstream.detail": b"no end",
        "trace": b"1",
    }
    assert len(headers) == 8, "headers of an earlier dead letter are replaced"


def test_a_detail_with_lone_surrogates_and_without_end_is_no_trouble() -> None:
    headers = dict(letter_headers(letter(detail="\ud800" + "x" * 10_000), max_detail_chars=100))
    assert headers["memstream.detail"] == b"\\ud800" + b"x" * 99


def test_dead_letters_must_not_come_back_as_documents() -> None:
    assert DeadLetterSink(PLAIN, DeadLetterConfig()).topic == "news.dead-letters"
    with pytest.raises(ConfigurationError, match=r"dead_letters\.topic"):
        DeadLetterSink(PLAIN, DeadLetterConfig(topic="news"))
