"""`python -m jobs.publish`: put documents into a topic, and say where they landed: the offsets to wait for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.command import start
from jobs.config import load_stream
from jobs.feed_files import FileRefused, Format, documents, opened
from jobs.options import AsJson, ConfigFile, OneStream, Overrides
from pipeline.errors import ConfigurationError
from pipeline.fields import FieldsConfig
from pipeline.publish import Publisher
from pipeline.records import Partition
from pipeline.source import KafkaConfig

app = typer.Typer(add_completion=False)

BATCH = 500

Landed: TypeAlias = dict[Partition, tuple[int, int]]
"""For each partition the first offset and the one after the last."""


@app.command()
def publish(
    file: Annotated[
        Path | None, typer.Argument(help="File of documents, also gzip or zstd; - for standard input.", show_default=False)
    ] = None,
    text: Annotated[str | None, typer.Option(help="One document, instead of a file.")] = None,
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
    document_id: Annotated[str | None, typer.Option("--id", help="Its id: a later document with the same one replaces it.")] = None,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    link: Annotated[str | None, typer.Option(help="Its address, shown where it is cited.")] = None,
    delete: Annotated[
        str | None, typer.Option(metavar="ID", help="Publish a tombstone instead: the document with this id is forgotten.")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            help="jsonl: an object a line. json: an object, or an array. csv: columns are fields. text: texts with blank lines between."
            " lines: a text a line. Told by the file if not given."
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="UTF-8, or what a byte-order mark says, if not given.")] = None,
    from_line: Annotated[int, typer.Option(min=1, help="Begin at this line: to go on after a fault was mended.")] = 1,
    config: ConfigFile = None,
    overrides: Overrides = None,
    stream: OneStream = None,
    bootstrap: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Broker; kafka.bootstrap_servers if not given.")] = None,
    topic: Annotated[str | None, typer.Option(help="Topic; the first of kafka.topics if not given. Made if it is not there.")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of a topic that is made.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Publish documents into a topic: a file of them, or one --text; or --delete one. Prints the offsets at which they landed."""
    if sum(given is not None for given in (file, text, delete)) != 1:
        raise typer.BadParameter("give a FILE (- for standard input), or --text, or --delete")
    kafka, fields = _destination(config, overrides, stream, bootstrap, topic, writes=delete is None)
    with Publisher(kafka, topic or kafka.topics[0], partitions=partitions, key_field=fields.id or "id") as publisher:
        if delete is not None:
            gone = publisher.delete(delete)
            landed = {gone.partition: (gone.offset, gone.end)}
        elif file is None:
            landed = _published(publisher, iter([_document(fields, text or "", title, document_id, source, link)]), {})
        else:
            landed = _publish_file(publisher, file, format, encoding, from_line, fields)
    _tell(landed, as_json)


def _destination(
    config: ConfigFile, overrides: Overrides, name: str | None, bootstrap: str | None, topic: str | None, writes: bool
) -> tuple[KafkaConfig, FieldsConfig]:
    given = [f"kafka.bootstrap_servers={bootstrap}"] if bootstrap else []
    given += [f"kafka.topics=[{json.dumps(topic)}]"] if topic and config is None else []
    stream = load_stream(config, [*given, *(overrides or [])], name)
    if writes and stream.decode.format != "json":
        raise ConfigurationError(
            f"decode.format: this stream reads {stream.decode.format}, and publish writes JSON; use a producer of your own"
        )
    return stream.kafka, stream.decode.fields


def _publish_file(
    publisher: Publisher, file: Path, format: Format | None, encoding: str | None, from_line: int, fields: FieldsConfig
) -> Landed:
    """Publish a file's documents. Where one of them cannot be read, those before it are in the topic, and the error says where."""
    landed: Landed = {}
    try:
        with opened(file, encoding) as text:
            found = (_as_document(each.content, fields) for each in documents(text, file, format, from_line))
            _published(publisher, found, landed)
    except FileRefused as error:
        if not landed:
            raise
        count = sum(end - first for first, end in landed.values())
        told = "; ".join(_spans(landed))
        raise FileRefused(
            f"{error}\n{count} documents before it were published: {told}. Mend it and go on with --from-line {error.line}"
        ) from error
    return landed


def _as_document(content: dict[str, Any] | str, fields: FieldsConfig) -> dict[str, Any]:
    return content if isinstance(content, dict) else _document(fields, content)


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


def _published(publisher: Publisher, documents: Iterator[dict[str, Any]], landed: Landed) -> Landed:
    """Publish, a batch at a time; `landed` grows with what is acknowledged. Shows how many are through."""
    columns = (SpinnerColumn(), TextColumn("published"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        for batch in _batches(documents):
            for each in publisher.publish(batch.documents):
                first, _ = landed.get(each.partition, (each.offset, 0))
                landed[each.partition] = first, each.end
            progress.advance(task, len(batch.documents))
            if batch.fault is not None:
                raise batch.fault
    return landed


class _Batch(NamedTuple):
    documents: list[dict[str, Any]]
    fault: FileRefused | None


def _batches(documents: Iterator[dict[str, Any]]) -> Iterator[_Batch]:
    """Batches of documents; what was read before a fault is a batch too."""
    batch: list[dict[str, Any]] = []
    try:
        for document in documents:
            batch.append(document)
            if len(batch) == BATCH:
                yield _Batch(batch, None)
                batch = []
    except FileRefused as error:
        yield _Batch(batch, error)
        return
    if batch:
        yield _Batch(batch, None)


def _tell(landed: Landed, as_json: bool) -> None:
    if as_json:
        print(json.dumps({str(partition): {"first": first, "end": end} for partition, (first, end) in sorted(landed.items())}))
        return
    for line in _spans(landed):
        print(line)


def _spans(landed: Landed) -> list[str]:
    """Where documents landed, a partition each."""
    return [
        f"{partition}: offset {first}" if end == first + 1 else f"{partition}: offsets {first} to {end - 1}"
        for partition, (first, end) in sorted(landed.items())
    ]


if __name__ == "__main__":
    start(app)
