"""What is configured about snapshots: where they lie, how often one is written, which are kept, and who vouches for them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.secrets import Secret
from pipeline.snapshots.roots import checked_root


class RetentionConfig(BaseModel):
    """Which snapshots are kept; pinned ones always are. The others go, and what none names any more goes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_all: bool = Field(default=False, description="true: no snapshot is ever removed; what crashed attempts left still is")
    last: int = Field(default=5, ge=2, description="the newest ones; two at least, since the one before is used where the last is broken")
    hourly: int = Field(default=24, ge=0, description="the last one of each hour, for so many hours that have any")
    daily: int = Field(default=14, ge=0, description="the last one of each day (UTC), for so many days that have any")
    garbage_after_s: float = Field(
        default=3600.0,
        ge=0,
        allow_inf_nan=False,
        description="what no snapshot names is removed after so long; longer than any restore takes",
    )


class SnapshotConfig(BaseModel):
    """Where a stream's snapshots lie, how often one is written, and which are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str = Field(
        default="file://./runs/snapshots",
        validate_default=True,
        description="where snapshots lie: s3://, gs://, or file:// (one node only; relative to the working directory, ~ is home)",
    )
    every_s: float | None = Field(default=300.0, gt=0, description="seconds between snapshots while anything changes; null: not by time")
    every_updates: int | None = Field(default=None, gt=0, description="updates between snapshots; null: not by updates")
    merge_bytes: int = Field(
        default=1 << 30, ge=0, description="blocks that are written anew beside one snapshot, so that segments stay few and full; 0: none"
    )
    signing_keys: tuple[Secret, ...] = Field(
        default=(), description="for shared buckets: ${NAME} or ${file:PATH} of secrets; the first signs manifests, all are accepted"
    )
    retention: RetentionConfig = Field(default=RetentionConfig(), description="which snapshots are kept")

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return checked_root(root)

    def is_due(self, elapsed_s: float, updates: int) -> bool:
        """Whether a snapshot is due, `elapsed_s` and `updates` after the last one.

        >>> config = SnapshotConfig(every_s=300, every_updates=50)
        >>> config.is_due(10, 49), config.is_due(10, 50), config.is_due(300, 0)
        (False, True, True)
        """
        by_time = self.every_s is not None and elapsed_s >= self.every_s
        return by_time or (self.every_updates is not None and updates >= self.every_updates)
