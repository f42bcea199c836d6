"""Options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML configuration of one stream, or of several (streams:); infra/config/example.yaml explains each key.",
    ),
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override one key, as in --set replicas.count=2; of one of several streams: --set streams.NAME.replicas.count=2. The value is"
        " YAML. Repeatable.",
    ),
]
RayAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="Ray cluster to join; RAY_ADDRESS if not given, else one is found or started here."
    ),
]
StreamAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="http(s)://HOST:PORT of an HTTP front (its key in MEMSTREAM_KEY), or HOST:PORT of a Ray cluster; else the one that runs here.",
    ),
]
StreamName: TypeAlias = Annotated[str | None, typer.Option("--stream", help="Name of the stream; not needed where only one is there.")]
OneStream: TypeAlias = Annotated[
    str | None, typer.Option("--stream", metavar="NAME", help="Which of the configuration's streams; not needed where it has only one.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
