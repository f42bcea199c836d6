"""What a replica is made of once its model is loaded, and what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from actors.answering import Answering, freshness, seen_watermark_ms, version_of
from actors.config import StreamConfig
from actors.device_loop import DeviceLoop
from actors.engines import device_of, engine_options
from actors.feed import CommitWindow, Freshness
from actors.history import History
from actors.learner import Learner
from actors.saver import Saver
from model.catalog import checkpoint_folder
from model.engine import Engine
from model.loading import load_engine
from pipeline.positions import StreamState, format_positions
from pipeline.records import DeadLetter
from pipeline.snapshots.writer import SnapshotStore


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of one replica; its device loop runs."""

    engine: Engine
    learner: Learner
    saver: Saver
    loop: DeviceLoop
    answering: Answering

    @classmethod
    def made(
        cls,
        config: StreamConfig,
        number: int,
        engine: Engine,
        restored: tuple[Saver, StreamState],
        store: SnapshotStore,
        reject: Callable[[DeadLetter], None],
        window: CommitWindow,
        fresh: Freshness,
    ) -> Parts:
        """Around an engine whose memory is restored."""
        (saver, state), answers = restored, config.answers
        learner = Learner(config, engine, state, reject, saver.last.generation if saver.last else 0, window.add)
        loop = DeviceLoop(
            engine,
            lambda: (learner.state, fresh.complete_up_to_s),
            share=answers.share,
            most_running=answers.most_running,
            most_waiting=answers.most_waiting,
            prefill_tokens=answers.prefill_tokens,
        )
        loop.start()
        answering = Answering(config, number, engine, learner, loop, History(store, engine), lambda: fresh.complete_up_to_s)
        return cls(engine, learner, saver, loop, answering)

    def figures(self, fresh: Freshness) -> dict[str, Any]:
        """The fields of a status that do not hang on the replica's role."""
        state, last, loop = self.learner.state, self.saver.last, self.loop
        return {
            "update_number": state.update_number,
            "version": version_of(state),
            "position": format_positions(state.positions),
            "highwater": fresh.highwaters,
            "counts": {outcome.value: count for outcome, count in state.counts.items()},
            "watermark_ms": seen_watermark_ms(state),
            "caught_up": fresh.caught_up,
            **freshness(fresh.complete_up_to_s),
            "commits": state.commits,
            "forward_passes": self.learner.passes,
            "remembered_documents": len(state.ledger),
            "remembered_updates": self.engine.remembered,
            "memory_tokens": self.engine.num_tokens,
            "documents_cut": state.documents_cut,
            "tokens_left_out": state.tokens_left_out,
            "running_answers": loop.running,
            "waiting_answers": loop.waiting,
            "answered": self.answering.answered,
            "turns": {turn.value: count for turn, count in loop.turns.items()},
            "turn_s": loop.turn_s,
            "seconds": {turn.value: seconds for turn, seconds in loop.seconds.items()},
            "epoch": last.epoch if last else None,
            "epoch_age_s": time.time() - last.created_at_s if last else None,
        }


def loaded_engine(config: StreamConfig) -> tuple[Engine, torch.device]:
    """The model that a stream is configured with, and where it computes."""
    device = device_of(config)
    engine = load_engine(checkpoint_folder(config.model.name, config.model.revision), device, config.model.dtype, engine_options(config))
    return engine, torch.device(device)
