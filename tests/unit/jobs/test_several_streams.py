"""Several streams in one file: what they share, what is each one's own, and what one may not do to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.config import DeploymentConfig
from actors.messages import Phase, ReplicaStatus
from jobs.config import as_yaml, load_config, load_stream, parse_config
from jobs.dlq import _stream
from jobs.progress import Progress, status_table
from jobs.run import app as run
from jobs.snapshots.opening import Opened
from jobs.streams import StreamFailed, StreamRun, require_all
from pipeline.errors import BrokerUnavailable, ConfigurationError
from tests.unit.jobs.test_commands import exit_code

EXAMPLE = Path(__file__).parents[3] / "infra" / "config" / "streams.yaml"
SHARED = {"kafka": {"bootstrap_servers": "one:9092", "start": "latest"}, "memory": {"blocks": 9, "margin": 1.0}}


def tree(news: Any = None, sport: Any = None, **shared: Any) -> dict[str, Any]:
    """Two streams with a topic each, and what is laid over each of them."""
    streams = {"news": {"kafka": {"topics": ["news"]}}, "sport": {"kafka": {"topics": ["sport"]}}}
    for name, own in (("news", news), ("sport", sport)):
        for section, keys in (own or {}).items():
            base = streams[name].get(section)
            streams[name][section] = {**base, **keys} if base and isinstance(keys, dict) else keys
    return {**SHARED, **shared, "streams": streams}


def refusal(configuration: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(configuration, overrides)
    return str(caught.value).splitlines()


def test_a_streams_own_keys_are_laid_over_what_all_share() -> None:
    config = parse_config(tree(sport={"memory": {"blocks": 3}}, news={"memory": None}, http={"port": 9000}))
    news, sport = config.streams
    assert config.names == ["news", "sport"] and config.http.port == 9000
    assert (news.kafka.topics, news.kafka.start, news.memory.blocks) == (("news",), "latest", 9)
    assert (sport.kafka.topics, sport.kafka.start, sport.memory.blocks, sport.memory.margin) == (("sport",), "latest", 3, 1.0)


def test_a_mapping_without_sections_is_merged_by_its_keys_and_a_null_takes_a_value_away() -> None:
    own = {"decode": {"sources": {"b": "B"}}, "admission": {"per_source": None}}
    shared = {"decode": {"sources": {"a": "A"}}, "admission": {"per_source": {"documents": 5, "window_s": 60}}}
    news, sport = parse_config(tree(sport=own, **shared)).streams
    assert (dict(news.decode.sources), dict(sport.decode.sources)) == ({"a": "A"}, {"a": "A", "b": "B"})
    assert news.admission.per_source is not None and sport.admission.per_source is None


def test_the_example_of_several_streams_loads_and_names_each() -> None:
    config = load_config(EXAMPLE)
    assert config.names == ["news", "sport"]
    assert [each.memory.blocks for each in config.streams] == [20000, 2000]


def test_set_is_of_all_streams_or_of_one_whatever_their_order() -> None:
    config = parse_config(tree(sport={"memory": {"blocks": 3}}), ["streams.sport.replicas.count=3", "replicas.count=2", "memory.blocks=7"])
    assert [(each.replicas.count, each.memory.blocks) for each in config.streams] == [(2, 7), (3, 7)]
    assert parse_config(tree(), ["streams.sport.kafka.topics=results"]).stream("sport").kafka.topics == ("results",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("streams.sprot.replicas.count=2", "--set streams.sprot.replicas.count: want streams.NAME.KEY=VALUE .* there are news, sport"),
        ("streams.sport=2", "--set streams.sport: want streams.NAME.KEY=VALUE"),
        ("stream=other", "stream: a stream of several is named by the key under `streams`"),
        ("streams.sport.replicas.count=0", "streams.sport.replicas.count: input should be greater"),
        ("replicas.count=0", "^replicas.count: input should be greater"),
    ],
)
def test_a_mistake_in_set_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        parse_config(tree(), [override])
    assert len(str(caught.value).splitlines()) == 1


def test_a_mistake_is_named_by_where_it_stands_and_told_once() -> None:
    faults = refusal(tree(sport={"kafka": {"topic": "x"}, "replicas": {"count": 0}}, answers={"share": 3}, chunkz={}))
    assert [fault.split(":")[0] for fault in faults] == [
        "answers.share",
        "chunkz",
        "streams.sport.kafka.topic",
        "streams.sport.replicas.count",
    ]
    assert "did you mean streams.sport.kafka.topics?" in faults[2] and "did you mean chunks?" in faults[1]


def test_what_a_stream_lacks_is_asked_of_it() -> None:
    (fault,) = refusal({"kafka": {"bootstrap_servers": "one:9092"}, "streams": {"a": {"kafka": {"topics": ["a"]}}, "b": {}}})
    assert fault.startswith("streams.b.kafka.topics: missing; name the topics of this stream")


def test_the_front_and_the_name_are_of_no_stream() -> None:
    faults = refusal(tree(sport={"http": {"port": 1}, "stream": "x"}, news={"streams": {}}))
    assert faults == [
        "streams.news.streams: streams hold no streams",
        "streams.sport.stream: a stream of several is named by the key under `streams` that it stands below; leave this out",
        "streams.sport.http: one front answers for all streams: put it beside `streams`",
    ]


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (None, "streams: must hold the streams by their names"),
        ({}, "streams: must hold the streams by their names"),
        (["news"], "streams: must hold the streams by their names"),
        ({"hunter2 hunter2": {}}, "streams: a name of 15 characters that cannot be one"),
        ({2026: {}}, "streams: a name of 4 characters that cannot be one"),
        ({"hunter2-hunter2": None}, "streams: below a name of 15 characters stand no keys"),
        ({"hunter2-hunter2": "x"}, "streams: below a name of 15 characters stand no keys"),
    ],
)
def test_what_are_no_streams_is_told_without_repeating_it(streams: Any, said: str) -> None:
    (fault,) = refusal({**SHARED, "streams": streams})
    assert fault.startswith(said) and "hunter2" not in fault


@pytest.mark.parametrize(
    ("news", "sport", "said"),
    [
        (
            {"dead_letters": {"topic": "sport"}},
            {},
            "streams.news.dead_letters.topic: streams.sport reads 'sport' as one of its topics",
        ),
        (
            {"kafka": {"group_id": "g", "topics": ["a", "b"]}},
            {"kafka": {"group_id": "g", "topics": ["b", "c"]}},
            "streams.sport.kafka.group_id: streams.news commits its positions in b to the same group",
        ),
        (
            {"snapshots": {"root": "s3://b/x"}},
            {"snapshots": {"root": "s3://b/x/news"}},
            "streams.sport.snapshots.root: it lies among the snapshots of streams.news",
        ),
    ],
)
def test_what_would_do_harm_to_another_stream_is_refused(news: Any, sport: Any, said: str) -> None:
    (fault,) = refusal(tree(news, sport))
    assert fault.startswith(said)
    if "kafka" not in fault.split(":")[0]:
        return
    apart = parse_config(tree({"kafka": {**news["kafka"], "bootstrap_servers": "two:9092"}}, sport))
    assert apart.names == ["news", "sport"], "on other brokers they do none"


def test_two_streams_may_read_the_same_topic() -> None:
    same = {"kafka": {"topics": ["both"]}}
    assert parse_config(tree(same, {**same, "admission": {"allow_sources": ["AFP"]}})).names == ["news", "sport"]


def test_what_is_shown_can_be_given_again() -> None:
    several = parse_config(tree(http={"port": 9000}))
    assert parse_config(yaml.safe_load(as_yaml(several))) == several
    assert list(yaml.safe_load(as_yaml(several))) == ["http", "streams"]
    alone = several.only(["sport"])
    assert parse_config(yaml.safe_load(as_yaml(alone))) == alone and alone.http.port == 9000
    assert yaml.safe_load(as_yaml(alone))["stream"] == "sport"


def test_one_is_chosen_by_its_name() -> None:
    config = parse_config(tree())
    assert config.stream("sport").stream == "sport" and config.only(["sport"]).stream().stream == "sport"
    with pytest.raises(ConfigurationError, match=r"several streams: choose with --stream news \| sport"):
        config.stream()
    with pytest.raises(ConfigurationError, match="--stream x: the configuration has no such stream; it has news, sport"):
        config.only(["news", "x"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "streams.yaml"
    path.write_text(yaml.safe_dump(tree(dead_letters={"topic": "dead"}, snapshots={"root": str(tmp_path / "snapshots")})))
    return path


def test_commands_that_are_about_one_stream_ask_for_its_name(file: Path, tmp_path: Path) -> None:
    assert load_stream(file, name="sport").stream == "sport"
    assert Opened(file, None, None, "sport").reader.url == f"file://{tmp_path}/snapshots/sport"
    for wants_one in (lambda: Opened(file, None, None, None), lambda: _stream(file, None, None), lambda: load_stream(file)):
        with pytest.raises(ConfigurationError, match=r"choose with --stream news \| sport"):
            wants_one()


def test_of_letters_in_a_topic_that_streams_share_each_has_its_own(file: Path) -> None:
    _, topic, _, own = _stream(file, None, "sport")
    assert (topic, own) == ("dead", ["sport"])
    assert _stream(file, ["streams.sport.dead_letters.topic=elsewhere"], "sport")[3] is None


def test_run_shows_all_streams_or_those_that_are_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(run, "--config", str(file), "--show-config") == 0
    assert list(yaml.safe_load(capsys.readouterr().out)["streams"]) == ["news", "sport"]
    assert exit_code(run, "--config", str(file), "--show-config", "--stream", "sport") == 0
    assert yaml.safe_load(capsys.readouterr().out)["stream"] == "sport"
    assert exit_code(run, "--config", str(file), "--stream", "x") == 1
    assert exit_code(run, "--config", str(file), "--set", "streams.sport.replicas.mode=serve", "--until", "caught-up") == 1
    assert "sport: replicas.mode: serve reads nothing" in capsys.readouterr().err


def test_lines_and_rows_name_their_stream(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    shown = {name: [ReplicaStatus(replica=0, phase=Phase.WAITING, problem=f"no {name}")] for name in ("news", "sport")}
    console = Console(width=150, highlight=False)
    Progress(console).show(shown)
    assert capsys.readouterr().out.splitlines() == ["news, replica 0 waiting: no news", "sport, replica 0 waiting: no sport"]
    console.print(status_table(shown))
    said = capsys.readouterr().out
    assert "stream" in said and "sport, replica 0: no sport" in said
    console.print(status_table({"news": shown["news"]}))
    assert "stream" not in capsys.readouterr().out


def runs(**errors: Exception | None) -> list[StreamRun]:
    config: DeploymentConfig = parse_config(tree())
    made = [StreamRun(config.stream(name), lambda found: True, print) for name in errors]
    for each, error in zip(made, errors.values(), strict=True):
        each.error = error
    return made


def test_the_only_stream_fails_with_its_own_error_and_several_with_each() -> None:
    require_all(runs(news=None, sport=None))
    with pytest.raises(BrokerUnavailable, match=r"^gone$"):
        require_all(runs(sport=BrokerUnavailable("gone")))
    with pytest.raises(StreamFailed) as caught:
        require_all(runs(news=None, sport=BrokerUnavailable("gone")))
    assert str(caught.value) == "1 of 2 streams could not go on:\nsport: gone"
    assert json.dumps(runs(sport=BrokerUnavailable("gone"))[0].result()) == '{"stream": "sport", "error": "gone", "replicas": []}'
