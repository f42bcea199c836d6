"""The block memory on a GPU: the same blocks are chosen, the same answers given as on a CPU in float32; the base model untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from model.block_engine import BlockEngine, ReadingConfig
from model.engine import Asked, Asking, answer, prepared
from model.loading import EngineOptions, load_engine
from tests.doubles.tiny import tiny_block_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

TEXTS = ["Ada rules in Oslo.", "Bo plays chess.", "The river Cy rose.", "Dee won a prize."]


def engine_on(device: str, folder: Path) -> BlockEngine:
    engine = load_engine(folder, device, "float32", EngineOptions(reading=ReadingConfig(margin=-1e6)))
    assert isinstance(engine, BlockEngine)
    for text in TEXTS:
        engine.commit(prepared(engine, [engine.encode(text)]))
    return engine


def test_a_gpu_chooses_and_answers_as_a_cpu_does(tmp_path: Path) -> None:
    folder = tiny_block_checkpoint(tmp_path, K=24)
    cpu, gpu = (engine_on(device, folder) for device in ("cpu", "cuda"))
    for text in TEXTS:
        found = [answer(engine, [{"role": "user", "content": text}], Asking(limit=8)) for engine in (cpu, gpu)]
        assert found[0].text == found[1].text
        assert [each.update for each in found[0].read] == [each.update for each in found[1].read]


def test_without_memory_it_is_transformers_llama_bit_for_bit(tmp_path: Path) -> None:
    engine = engine_on("cuda", tiny_block_checkpoint(tmp_path, K=24))
    model = engine.memory.model
    plain = LlamaForCausalLM(model.config).eval().to("cuda")
    plain.load_state_dict(model.base.state_dict(), assign=True)
    tokens = torch.tensor([engine.conversation.tokens([{"role": "user", "content": "Who?"}])], device="cuda")
    ours: list[torch.Tensor] = []
    model.base.lm_head.register_forward_hook(lambda _, __, logits: ours.append(logits))
    engine.begin([Asked(prompt=engine.compose([{"role": "user", "content": "Who?"}]), asking=Asking(limit=1, most_blocks=0))])
    with torch.no_grad():
        assert torch.equal(ours[0].flatten(), plain(tokens, logits_to_keep=1).logits.flatten())
