"""`python -m jobs.publish`: put documents into a topic, and say where they landed: the offsets to wait for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.command import start
from jobs.config import load_config
from jobs.options import AsJson, ConfigFile, Overrides
from pipeline.decode import FieldsConfig
from pipeline.errors import ConfigurationError
from pipeline.publish import Publisher
from pipeline.records import Partition
from pipeline.source import KafkaConfig

app = typer.Typer(add_completion=False)

BATCH = 500


class Format(StrEnum):
    JSONL = "jsonl"
    LINES = "lines"


@app.command()
def publish(
    file: Annotated[Path | None, typer.Argument(help="File with one document a line; - for standard input.", show_default=False)] = None,
    text: Annotated[str | None, typer.Option(help="One document, instead of a file.")] = None,
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
    document_id: Annotated[str | None, typer.Option("--id", help="Its id: a later document with the same one replaces it.")] = None,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    link: Annotated[str | None, typer.Option(help="Its address, shown where it is cited.")] = None,
    delete: Annotated[
        str | None, typer.Option(metavar="ID", help="Publish a tombstone instead: the document with this id is forgotten.")
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="A JSON object a line, or a text a line; told by the first line if not given.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    bootstrap: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Broker; kafka.bootstrap_servers if not given.")] = None,
    topic: Annotated[str | None, typer.Option(help="Topic; the first of kafka.topics if not given. Made if it is not there.")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of a topic that is made.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Publish documents into a topic: one --text, or a file with one a line; or --delete one. Prints the offsets at which they landed."""
    if sum(given is not None for given in (file, text, delete)) != 1:
        raise typer.BadParameter("give a FILE (- for standard input), or --text, or --delete")
    kafka, fields = _destination(config, overrides, bootstrap, topic)
    with Publisher(kafka, topic or kafka.topics[0], partitions=partitions, key_field=fields.id or "id") as publisher:
        if delete is not None:
            gone = publisher.delete(delete)
            landed = {gone.partition: (gone.offset, gone.end)}
        elif file is None:
            landed = _published(publisher, iter([_document(fields, text or "", title, document_id, source, link)]))
        else:
            with _opened(file) as lines:
                landed = _published(publisher, _documents(lines, format, fields))
    _tell(landed, as_json)


def _destination(config: ConfigFile, overrides: Overrides, bootstrap: str | None, topic: str | None) -> tuple[KafkaConfig, FieldsConfig]:
    given = [f"kafka.bootstrap_servers={bootstrap}"] if bootstrap else []
    given += [f"kafka.topics=[{json.dumps(topic)}]"] if topic and config is None else []
    stream = load_config(config, [*given, *(overrides or [])])
    if stream.decode.format == "text":
        raise ConfigurationError("decode.format: this stream reads plain text, and publish writes JSON; use a producer of your own")
    return stream.kafka, stream.decode.fields


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    if str(file) == "-":
        yield sys.stdin
        return
    try:
        lines = file.open(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from error
    with lines:
        yield lines


def _documents(lines: IO[str], format: Format | None, fields: FieldsConfig) -> Iterator[dict[str, Any]]:
    """Raises typer.BadParameter, naming the line, for what is no JSON object."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            format = format or (Format.JSONL if line.lstrip().startswith("{") else Format.LINES)
            yield _document(fields, line.strip()) if format is Format.LINES else _json_object(line, number)


def _json_object(line: str, number: int) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise typer.BadParameter(f"line {number} is not JSON: {error}", param_hint="FILE") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"line {number} is not a JSON object; for a text a line use --format lines", param_hint="FILE")
    return document


def _document(
    fields: FieldsConfig,
    text: str,
    title: str | None = None,
    document_id: str | None = None,
    source: str | None = None,
    link: str | None = None,
) -> dict[str, Any]:
    """A document as the stream's decoder will look for it.

    >>> _document(FieldsConfig(text="article.body"), "A new president.", "Elections")
    {'article': {'body': 'A new president.'}, 'title': 'Elections'}
    """
    document: dict[str, Any] = {}
    given = ((fields.text, text), (fields.title, title), (fields.id, document_id), (fields.source, source), (fields.link, link))
    for path, value in given:
        if path is not None and value is not None:
            *outer, name = path.split(".")
            inner = document
            for each in outer:
                inner = inner.setdefault(each, {})
            inner[name] = value
    return document


def _published(publisher: Publisher, documents: Iterator[dict[str, Any]]) -> dict[Partition, tuple[int, int]]:
    """For each partition the first offset and the one after the last; shows how many are through."""
    landed: dict[Partition, tuple[int, int]] = {}
    columns = (SpinnerColumn(), TextColumn("published"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        while batch := list(islice(documents, BATCH)):
            for each in publisher.publish(batch):
                first, _ = landed.get(each.partition, (each.offset, 0))
                landed[each.partition] = first, each.end
            progress.advance(task, len(batch))
    return landed


def _tell(landed: dict[Partition, tuple[int, int]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({str(partition): {"first": first, "end": end} for partition, (first, end) in sorted(landed.items())}))
        return
    for partition, (first, end) in sorted(landed.items()):
        span = f"offset {first}" if end == first + 1 else f"offsets {first} to {end - 1}"
        print(f"{partition}: {span}")


if __name__ == "__main__":
    start(app)
