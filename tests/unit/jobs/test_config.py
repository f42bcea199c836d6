"""Every mistake in a configuration is named by its key, and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.config import DeploymentConfig, StreamConfig
from jobs.config import as_yaml, load_config, load_stream, parse_config
from pipeline.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
EXAMPLE, QUICKSTART = (ROOT / "infra" / "config" / name for name in ("example.yaml", "quickstart.yaml"))
FORMATS = sorted((ROOT / "infra" / "config" / "formats").glob("*.yaml"))
PLAIN = ["kafka.bootstrap_servers=one:9092", "kafka.topics=[news]"]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_config(None, [*PLAIN, *overrides])
    return str(caught.value)


@pytest.mark.parametrize("path", [EXAMPLE, QUICKSTART])
def test_the_example_configurations_load(path: Path) -> None:
    assert load_stream(path).kafka.topics == ("news",)


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.stem)
def test_there_is_an_example_for_each_format(path: Path) -> None:
    config = load_stream(path)
    assert path.stem.replace("-", "_") in (config.decode.format, config.decode.envelope)
    assert path.name in (ROOT / "docs" / "formats.md").read_text()


def test_the_example_holds_every_key_with_its_default() -> None:
    example = yaml.safe_load(EXAMPLE.read_text())
    given = {key: example["kafka"][key] for key in ("bootstrap_servers", "topics")}
    bare = DeploymentConfig(streams=(StreamConfig.model_validate({"kafka": given}),))
    assert keys(example) == keys(bare.effective())
    assert load_config(EXAMPLE) == bare


def keys(tree: Any, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {prefix}
    return {key for name, inner in tree.items() for key in keys(inner, f"{prefix}.{name}")}


def test_overrides_are_laid_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "stream.yaml"
    file.write_text("stream: a\nkafka: {bootstrap_servers: 'one:9092', topics: [x, y]}\nreplicas:\n")
    config = load_stream(file, ["stream=b", "replicas.count=2", "decode.fields.text=article.body", "snapshots.every_s=null"])
    assert (config.stream, config.replicas.count, config.decode.fields.text) == ("b", 2, "article.body")
    assert config.kafka.topics == ("x", "y") and config.snapshots.every_s is None


def test_a_list_of_one_may_be_written_as_it_is() -> None:
    assert load_stream(None, ["kafka.bootstrap_servers=one:9092,two:9092", "kafka.topics=news"]).kafka.topics == ("news",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("kafka.topic=news", "kafka.topic: there is no such key; did you mean kafka.topics?"),
        ("stram=news", "stram: there is no such key; did you mean stream?"),
        ("every_updates=3", "every_updates: there is no such key; did you mean snapshots.every_updates?"),
        (
            "decode.fields.zzz=3",
            "decode.fields: a key of 3 characters, like none that there is, so it is not shown; known here: text, title",
        ),
        ("replicas.count=0", "replicas.count: input should be greater than or equal to 1; Replicas of this stream"),
        ("replicas.device=tpu", "replicas.device: input should be 'auto', 'cpu' or 'cuda'"),
        ("admission.max_chars=0", "admission.max_chars: "),
        ("dead_letters.topic=news", "dead_letters.topic 'news' is also read as a topic of the stream"),
        ("stream=a b", "stream: string should match pattern"),
        ("replicas=2", "replicas: input should be a valid dictionary"),
        ("count", "--set count: want KEY=VALUE"),
        ("kafka.topics=[news", "--set kafka.topics: its value is not YAML: line 1, column 6: expected ',' or ']'"),
    ],
)
def test_a_mistake_is_named_by_its_key(override: str, said: str) -> None:
    assert said in refusal(override)


def test_all_mistakes_are_told_together() -> None:
    assert len(refusal("kafka.topic=x", "replicas.count=0", "nonsense=1").splitlines()) == 3


def test_a_stream_without_brokers_is_told_how_to_name_them() -> None:
    with pytest.raises(ConfigurationError, match=r"kafka.bootstrap_servers: missing; name your brokers"):
        load_config(None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: [", "is not YAML"),
        ("- a\n- b\n", "holds a list"),
        ("stream: a\nstream: b\n", "the key stream stands here twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "stream.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_config(file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the configuration"):
        load_config(tmp_path / "none.yaml")


def test_a_secret_is_shown_as_the_place_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_PASSWORD", "s3cret")
    sasl = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "${FEED_USER}"}
    kafka = {"bootstrap_servers": "one:9092", "topics": ["news"], **sasl, "sasl_plain_password": "${FEED_PASSWORD}"}
    config = parse_config({"kafka": kafka})
    assert "s3cret" not in as_yaml(config) and "${FEED_USER}" in as_yaml(config) and "${FEED_PASSWORD}" in as_yaml(config)
    assert yaml.safe_load(as_yaml(config))["kafka"]["topics"] == ["news"]


def test_every_path_is_settled_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/reader")
    monkeypatch.setenv("CERTS", "/etc/certs")
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    tree = {
        "kafka": {
            "bootstrap_servers": "127.0.0.1:9092",
            "topics": ["news"],
            "security_protocol": "SSL",
            "ssl_cafile": "ca.pem",
            "ssl_certfile": "~/client.pem",
            "ssl_keyfile": "${CERTS}/key.pem",
        },
        "model": {"name": "checkpoints/mine"},
        "memory": {"scratch": "scratch"},
        "snapshots": {"root": "snapshots"},
    }
    config = parse_config(tree).stream()
    assert (config.kafka.ssl_cafile, config.kafka.ssl_certfile) == (f"{tmp_path}/ca.pem", "/home/reader/client.pem")
    assert config.kafka.ssl_keyfile == "/etc/certs/key.pem"
    assert (config.model.name, config.memory.scratch) == (f"{tmp_path}/checkpoints/mine", f"{tmp_path}/scratch")
    assert config.snapshots.root == f"file://{tmp_path}/snapshots"


@pytest.mark.parametrize(
    ("name", "settled"),
    [("memoryllm-smol-135m", "memoryllm-smol-135m"), ("owner/model", "owner/model"), ("./m", "{here}/m"), ("a/b/c", "{here}/a/b/c")],
)
def test_names_of_models_are_paths_only_where_they_are(name: str, settled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memoryllm-smol-135m").mkdir()
    tree = {"kafka": {"bootstrap_servers": "127.0.0.1:9092", "topics": ["news"]}, "model": {"name": name}}
    assert parse_config(tree).stream().model.name == settled.format(here=tmp_path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("snapshots.root=memory://x", r"snapshots\.root: memory:// keeps nothing"),
        ("snapshots.root=file://nas.example.com/share", r"snapshots\.root: .*another machine"),
        ("kafka.ssl_cafile=$NOT_SET_ANYWHERE/ca.pem", r"kafka\.ssl_cafile: .*NOT_SET_ANYWHERE is not set"),
        ("memory.scratch=''", r"memory\.scratch: an empty path"),
    ],
)
def test_paths_that_mean_nothing_are_named_by_their_key(override: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_config(None, ["kafka.bootstrap_servers=127.0.0.1:9092", "kafka.topics=news", override])


def test_a_fault_in_a_file_is_told_by_its_place_and_not_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "feed.yaml"
    path.write_text("kafka:\n  topics: [news]\n  sasl_plain_password: 's3cret\n  more: [\n")
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    assert "line " in str(caught.value) and "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "value", ["!s3cret", "*s3cret", "'a", "!!python/object:s3cret x", "{s3cret: 1, s3cret: 2}", "! s3cret:\n 's", "&s3cret &s3cret"]
)
def test_what_yaml_says_of_a_file_quotes_nothing_of_it(value: str, tmp_path: Path) -> None:
    path = tmp_path / "feed.yaml"
    path.write_text(f"kafka:\n  topics: [news]\n  sasl_plain_password: {value}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    assert "s3cret" not in str(caught.value)


def test_credentials_in_a_stores_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="credentials in it") as caught:
        load_config(None, [*PLAIN, "snapshots.root=s3://AKIA:s3cret@bucket/x"])
    assert "s3cret" not in str(caught.value)


def test_a_secret_that_slipped_into_the_place_of_a_key_is_not_shown(tmp_path: Path) -> None:
    """As a line feed too many does it: found by fuzzing."""
    path = tmp_path / "stream.yaml"
    path.write_text("kafka:\n  topics: [news]\n  sasl_plain_password: \nhunter2-hunter2:\n")
    with pytest.raises(ConfigurationError) as told:
        load_config(path)
    assert "hunter2" not in str(told.value) and "a key of 15 characters" in str(told.value)
