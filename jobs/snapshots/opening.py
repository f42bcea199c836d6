"""Which stream's snapshots a command is about, from its options."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer
from pydantic import ValidationError

from jobs.config import load_stream
from jobs.options import ConfigFile, Overrides
from pipeline.errors import SnapshotCorrupt, SnapshotError
from pipeline.snapshots.config import RetentionConfig, SnapshotConfig
from pipeline.snapshots.reader import SnapshotReader
from pipeline.snapshots.writer import SnapshotStore

Root: TypeAlias = Annotated[str | None, typer.Option(help="Where snapshots lie (snapshots.root): a folder or a URL.")]
Stream: TypeAlias = Annotated[
    str | None, typer.Option("--stream", metavar="NAME", help="Name of the stream; not needed where the configuration has only one.")
]
Epoch: TypeAlias = Annotated[int, typer.Argument(metavar="EPOCH", help="Number of the snapshot, as `list` shows it.", show_default=False)]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Opened:
    """The snapshots that the options name. Without a configuration no keys are known, so signatures are not looked at."""

    def __init__(self, config: ConfigFile, overrides: Overrides, root: str | None, stream: str | None) -> None:
        if config is None and (root is None or stream is None):
            raise typer.BadParameter("say which snapshots: --config FILE, or --root with --stream")
        loaded = None if config is None else load_stream(config, overrides, stream)
        self.config = SnapshotConfig(root=root or "") if loaded is None else loaded.snapshots
        if root is not None:
            self.config = self.config.model_copy(update={"root": SnapshotConfig(root=root).root})
        self._has_config = loaded is not None
        self.stream = loaded.stream if loaded is not None else stream or ""

    @property
    def reader(self) -> SnapshotReader:
        return SnapshotReader(self.config.root, self.stream, self.config.signing_keys)

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore(self.config, self.stream)

    @property
    def unchecked(self) -> SnapshotReader:
        """One that asks for no signatures."""
        return SnapshotReader(self.config.root, self.stream)

    def retention(self) -> RetentionConfig:
        """As configured; without a configuration, as the newest snapshot says that its writer's was."""
        if self._has_config:
            return self.config.retention
        for epoch in reversed(self.reader.epochs()):
            try:
                said = self.reader.load(epoch).config.get("snapshots")
                return RetentionConfig.model_validate(said.get("retention", {}) if isinstance(said, dict) else {})
            except (SnapshotCorrupt, ValidationError):
                continue
            except SnapshotError:
                break
        return self.config.retention
