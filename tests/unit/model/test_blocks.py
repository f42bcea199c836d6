"""The block memory and what reads it: blocks that never change, chosen by questions, in front of a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from model import block_engine
from model.block_checkpoint import load_block_model, memory_fingerprint, save_block_model
from model.block_engine import BlockEngine, ReadingConfig, chosen_blocks
from model.block_llm import BlockLLM
from model.conversation import OPENING, UNKNOWN, Conversation
from model.engine import Asked, Asking, Completion, Read, answer, answer_together, prepared
from model.errors import CheckpointError, UpdateFailed
from model.memory.blocks import BlockMemory, Held, Place, Scored, bits
from model.memory.projected import Projected
from model.memory.scratch import Scratch
from model.reading.answering import Running
from model.reading.generation import reading
from model.reading.selection import RIVALS, Documents, Selector
from tests.doubles.tiny import tiny_block_checkpoint

ALWAYS = ReadingConfig(margin=-1e6, evidence=-1e6, share=1e-300)
TEXTS = ["Ada rules in Oslo.", "Bo plays chess.", "The river Cy rose.", "Dee won a prize.", "Eve sold a bank."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_block_checkpoint(tmp_path_factory.mktemp("blocks"), K=24)


@pytest.fixture(scope="module")
def model(folder: Path) -> BlockLLM:
    return load_block_model(folder)


@pytest.fixture
def engine(model: BlockLLM, folder: Path) -> BlockEngine:
    return BlockEngine(BlockMemory(model, capacity=5), Conversation.of(folder), ALWAYS)


def learn(engine: BlockEngine, texts: Sequence[str]) -> None:
    for text in texts:
        engine.commit(prepared(engine, [engine.encode(text)]))


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# ---------------------------------------------------------------------- the model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_memory_it_is_transformers_llama_bit_for_bit(folder: Path, dtype: torch.dtype) -> None:
    """Prompt and every decoded token: the base model's logits are untouched."""
    model = load_block_model(folder, "cpu", dtype)
    plain = LlamaForCausalLM(model.config).eval()
    plain.load_state_dict(model.base.state_dict(), assign=True)  # the very same memory: a product's last bit may hang on alignment
    tokens = torch.tensor([Conversation.of(folder).tokens(ask("What is the capital of France?"))])
    engine = BlockEngine(BlockMemory(model), Conversation.of(folder))
    ours: list[torch.Tensor] = []
    model.base.lm_head.register_forward_hook(lambda _, __, logits: ours.append(logits))
    with torch.no_grad():
        theirs = plain(tokens, use_cache=True, logits_to_keep=1)
        (running,) = engine.begin([Asked(prompt=engine.compose(ask("What is the capital of France?")), asking=Asking(limit=200))])
        running._ends = frozenset()
        assert torch.equal(ours[-1].flatten(), theirs.logits.flatten())
        for _ in range(150):  # longer than the row's first room
            theirs = plain(torch.tensor([running.tokens[-1:]]), past_key_values=theirs.past_key_values)
            engine.decode()
            assert torch.equal(ours[-1].flatten(), theirs.logits.flatten())


def test_a_block_is_what_the_writer_sees_of_the_text(model: BlockLLM, engine: BlockEngine) -> None:
    """Against attention written out: states before each layer from the reading layer on, of the chunk alone, each token seeing all of it
    and of its context, which is read and not kept; chunks of other lengths beside it change nothing."""
    chunk, context = engine.encode("Bo plays chess."), engine.encode("Ada rules.")
    states, in_context, _ = model.inject([chunk, chunk, engine.encode("It rained.")], [(), context, ()])
    assert states.shape == in_context.shape == (model.layers_kept, len(chunk), model.config.hidden_size)
    for wanted, before in ((states, []), (in_context, context)):
        hidden = model.trunk(torch.tensor([[model.bos_token, *before, *chunk]]))
        length, seen = hidden.shape[1], [hidden]
        layers: list[Any] = list(model.writer)
        for layer in layers:
            attention, normed = layer.self_attn, layer.input_layernorm(hidden)
            split = (1, length, -1, attention.head_dim)
            query, key, value = (
                each(normed).view(split).transpose(1, 2) for each in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query, key = apply_rotary_pos_emb(query, key, *model.rotary(torch.arange(length)[None]))
            key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
            weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
            hidden = hidden + attention.o_proj((weights @ value).transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            seen.append(hidden)
        assert torch.allclose(wanted, torch.cat(seen)[:, 1 + len(before) :], atol=1e-5)
    assert not torch.allclose(states, in_context, atol=1e-2)


def test_a_checkpoint_comes_back_and_says_what_it_lacks(model: BlockLLM, tmp_path: Path, folder: Path) -> None:
    save_block_model(model, tmp_path)
    back = load_block_model(tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(model.state_dict().values(), back.state_dict().values(), strict=True))
    assert memory_fingerprint(back) == memory_fingerprint(model)
    with torch.no_grad():
        back.reader[0].mlp.up_proj.lora_B += 1  # type: ignore[union-attr, operator]
    assert memory_fingerprint(back) == memory_fingerprint(model), "the reader is no part of what a text becomes"
    with torch.no_grad():
        back.writer[0].mlp.up_proj.lora_B += 1  # type: ignore[union-attr, operator]
    assert memory_fingerprint(back) != memory_fingerprint(model)
    back = load_block_model(tmp_path)
    back.config.lora_config = {**(back.config.lora_config or {}), "lora_alpha": 1}
    assert memory_fingerprint(back) != memory_fingerprint(model)
    back = load_block_model(tmp_path)
    with torch.no_grad():
        back.selector.key.add_(1)
    assert memory_fingerprint(back) != memory_fingerprint(model)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"reading_layer": 2', '"reading_layer": 1'))
    with pytest.raises(CheckpointError, match=r"reader\.2.*missing"):
        load_block_model(tmp_path)


# ---------------------------------------------------------------------- the memory


def test_the_oldest_leaves_and_equal_memories_have_equal_digests(engine: BlockEngine, model: BlockLLM, folder: Path) -> None:
    learn(engine, [*TEXTS, "F", "G"])
    assert engine.memory.updates().tolist() == [2, 3, 4, 5, 6]
    other = BlockEngine(BlockMemory(model, capacity=5), Conversation.of(folder))
    learn(other, [*TEXTS[2:], "F", "G"])
    assert other.memory.digest() == engine.memory.digest()
    learn(other, ["H"])
    assert other.memory.digest() != engine.memory.digest()


def test_a_commit_tells_what_it_wrote_and_what_left(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    learned = engine.commit(prepared(engine, [engine.encode("F"), engine.encode("G")]), forget=[3])
    assert (learned.updates, sorted(learned.forgotten)) == ((5, 6), [0, 3])
    assert engine.memory.updates().tolist() == [1, 2, 4, 5, 6]
    assert engine.commit((), forget=[1, 99]).updates == ()
    assert len(engine.memory) == 4


def test_a_chunk_that_cannot_be_written_changes_nothing(engine: BlockEngine) -> None:
    learn(engine, TEXTS[:2])
    before = engine.memory.digest()
    wrong: list[list[list[int]]] = [[[]], [engine.encode("fine"), [1] * 25]]
    for chunks in wrong:
        with pytest.raises(UpdateFailed, match="a block takes 1 to 24"):
            prepared(engine, chunks)
    assert (engine.memory.digest(), engine.update_number) == (before, 2)


def test_a_memory_is_loaded_from_where_it_lies(engine: BlockEngine, model: BlockLLM) -> None:
    learn(engine, TEXTS)
    staged = engine.memory.stage()
    other = BlockMemory(model, capacity=5)
    other.load(staged.updates, staged.documents, staged.digests, staged.keys, staged.places, engine.update_number)
    assert (other.digest(), other.update_number, other.num_tokens) == (engine.memory.digest(), 5, engine.memory.num_tokens)
    question = ask(TEXTS[3])
    found = [answer(BlockEngine(memory, engine.conversation, ALWAYS), question, Asking(limit=1)).read for memory in (engine.memory, other)]
    assert found[0] == found[1] and found[0][0].update == 3


def test_a_later_part_is_found_by_what_its_document_begins_with(model: BlockLLM, folder: Path) -> None:
    """Both documents' second parts tell of a price; which of them is asked for is named in the first part alone."""
    engine = BlockEngine(BlockMemory(model, capacity=9), Conversation.of(folder), ALWAYS)
    for name in ("QXJQXJQXJ", "VWKVWKVWK"):
        engine.commit(prepared(engine, [engine.encode(name), engine.encode("a price: 55 francs")]))
    for number, name in ((1, "QXJ"), (3, "VWK")):
        found = answer(engine, ask(f"a price: francs {name}"), Asking(limit=1)).read
        assert found[0].update == number, found


def test_what_is_staged_stays_what_it_was(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    staged = engine.memory.stage()
    held = [place.home.states(place.row).copy() for place in staged.places]
    learn(engine, [f"{number} more" for number in range(20)])
    assert all(np.array_equal(place.home.states(place.row), before) for place, before in zip(staged.places, held, strict=True))
    assert staged.updates.tolist() == [0, 1, 2, 3, 4]


def test_blocks_can_move_house(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    staged = engine.memory.stage()
    scratch = Scratch()
    homes = [Place(*scratch.append(place.home.states(place.row))) for place in staged.places]
    engine.memory.rehome([0, 1, 77], [Held(place, keys) for place, keys in zip(homes[:3], staged.keys, strict=False)])
    assert [place.home is homes[0].home for place in engine.memory.stage().places] == [True, True, False, False, False]


def test_scratch_files_are_filled_one_after_the_other() -> None:
    scratch = Scratch(file_bytes=64)
    arrays = [np.full((1, size, 2), size, dtype=np.uint16) for size in (3, 12, 5, 40)]
    places = [scratch.append(each) for each in arrays]
    assert all(np.array_equal(file.states(row), each) for (file, row), each in zip(places, arrays, strict=True))
    assert places[0][0] is places[1][0] and len({id(file) for file, _ in places}) == 3


def test_bounded_the_cache_of_projected_blocks_drops_the_least_lately_used() -> None:
    pair = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    cache = Projected(limit_bytes=10 * 128)
    for update in range(20):
        cache.put(update, pair)
        cache.get(0)
    assert [update for update in range(20) if cache.get(update) is not None] == [0, *range(11, 20)]


# ---------------------------------------------------------------------- reading


def test_the_block_with_the_questions_words_is_read_first(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    for number, text in enumerate(TEXTS):
        done = answer(engine, ask(text), Asking(limit=2))
        assert done.grounded and done.read[0].update == number
        assert len(done.read) == 4 and all(0 <= each.score <= 1 for each in done.read)


def test_nothing_is_read_where_no_block_stands_out() -> None:
    scored = Scored(updates=(7, 3), scores=(12.0, 11.0), null=13.0, excess=-2.0)
    assert chosen_blocks(scored, ReadingConfig(doubt=0.0)) == ()
    assert [each.update for each in chosen_blocks(scored, ReadingConfig(doubt=-0.5))] == [7, 3]
    assert [each.update for each in chosen_blocks(scored, ReadingConfig(margin=-0.5, doubt=0.0))] == [7, 3]
    assert [each.update for each in chosen_blocks(scored, ReadingConfig(doubt=-0.5, share=0.5))] == [7]
    assert chosen_blocks(Scored(updates=(), scores=(), null=0.0, excess=0.0), ALWAYS) == ()


def test_a_block_is_compared_with_other_documents() -> None:
    selector = Selector(8, 4).requires_grad_(False)
    selector.margin.fill_(0.5)
    selector.elsewhere.fill_(-10.0)
    documents = Documents(torch.tensor([0, 0, 1, 2, 3]), 5)
    total = torch.tensor([[9.0, 8.0, 4.0, 2.0, -torch.inf], [1.0, 1.0, 4.0, 6.0, 2.0]])
    null, excess = selector.competing(total, torch.tensor([1.0, 3.0]), documents)
    assert null.tolist() == [1.5, 3.5]
    assert excess.tolist() == [((4 + 9) + (2 + 9)) / RIVALS, ((1 + 7) + (4 + 7) + (2 + 7)) / RIVALS], "absent documents are as usual"
    many = Documents(torch.tensor([0, 0, *range(1, 2 * RIVALS + 1)]), 2 * RIVALS + 1)
    total = torch.cat((torch.tensor([[9.0, 8.0]]), torch.arange(2.0 * RIVALS)[None] / 4), dim=1)
    assert selector.competing(total, torch.tensor([0.0]), many)[1].item() == total[0, 2:].topk(RIVALS).values.mean().item() + 10
    alone = selector.competing(torch.tensor([[9.0, 8.0]]), torch.tensor([1.0]), Documents(torch.tensor([0, 0]), 1))
    assert alone[1].item() == 0


def test_what_several_documents_tell_alike_stands_out_in_none(engine: BlockEngine) -> None:
    def scored(allowed: Any = None) -> Scored:
        prompt = engine.compose(ask(TEXTS[0]))
        trunk_TD = engine.memory.model.trunk(torch.tensor([prompt.tokens]))[0]
        return engine.score(prompt, trunk_TD, 4, Asking(limit=1, allowed=allowed))

    learn(engine, TEXTS[:1])
    alone = scored()
    assert alone.excess == 0
    learn(engine, [TEXTS[0] + "." * number for number in range(1, 5)])
    among = scored()
    assert among.null == alone.null and among.excess > 0 and among.lead < alone.lead
    assert scored(lambda numbers: numbers == 0).lead == alone.lead, "what must not be read plays no part"
    engine.commit([], [1, 2, 3, 4])
    assert scored().lead == alone.lead, "what has left plays no part"


def test_what_stands_out_is_a_likely_source_though_the_null_candidate_scores_more() -> None:
    (read,) = chosen_blocks(Scored(updates=(7,), scores=(20.0,), null=28.0, excess=-20.0), ReadingConfig())
    assert read.score == pytest.approx(0.88, abs=0.01)


def test_what_stands_around_a_chosen_block_in_its_document_is_read_with_it(engine: BlockEngine) -> None:
    learn(engine, TEXTS[:1])
    engine.commit(prepared(engine, [engine.encode(text) for text in TEXTS[1:4]]))  # one document: blocks 1, 2 and 3
    learn(engine, TEXTS[4:])
    engine.config = replace(ALWAYS, share=1.0)  # the best block alone is chosen

    def read(number: int, **asking: Any) -> list[int]:
        return [each.update for each in answer(engine, ask(TEXTS[number]), Asking(limit=1, **asking)).read]

    assert [read(number) for number in range(5)] == [[0], [1, 2, 3], [2, 3, 1], [3, 2, 1], [4]]
    assert [each.score for each in answer(engine, ask(TEXTS[2]), Asking(limit=1)).read][1:] == [0, 0]
    assert read(2, most_blocks=2) == [2, 3], "never more than may be read"
    assert read(2, most_blocks=1) == [2]
    assert read(1, most_blocks=2) == [1, 2], "the nearest first"
    assert read(2, allowed=lambda numbers: numbers != 3) == [2, 1]
    engine.commit([], [3])
    assert read(2) == [2, 1]


def test_masks_are_kept_to(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    asking = Asking(limit=1, allowed=lambda numbers: np.isin(numbers, [1, 2]))
    assert {each.update for each in answer(engine, ask(TEXTS[0]), asking).read} == {1, 2}
    nothing = Asking(limit=1, allowed=lambda numbers: numbers > 99)
    assert answer(engine, ask(TEXTS[0]), nothing).grounded is False
    assert answer(engine, ask(TEXTS[0]), Asking(limit=1, most_blocks=0)).grounded is False


def test_a_reading_is_the_readers_layers_over_memory_and_prompt(engine: BlockEngine, model: BlockLLM) -> None:
    """Against attention written out: the same layers, keys and values of the block in front at positions before 0, every row sees them."""
    learn(engine, TEXTS[:1])
    prompt = engine.conversation.prompt(ask("Who rules?"))
    seen_logits: list[torch.Tensor] = []
    hook = model.base.lm_head.register_forward_hook(lambda _, __, logits: seen_logits.append(logits))
    (running,) = engine.begin([Asked(prompt=prompt, asking=Asking(limit=1))])
    hook.remove()
    (place,) = engine.memory.stage().places
    states = torch.from_numpy(place.home.states(place.row).copy()).view(torch.bfloat16).float()
    hidden = model.trunk(torch.tensor([prompt.tokens]))
    length, memory = hidden.shape[1], states.shape[1]
    layers: list[Any] = list(model.reader)
    for index, layer in enumerate(layers):
        attention = layer.self_attn
        rows = torch.cat((states[index][None], hidden), dim=1)
        normed = layer.input_layernorm(rows)
        positions = torch.arange(-memory, length)[None]
        cos, sin = model.rotary(positions)
        split = (1, memory + length, -1, attention.head_dim)

        def turned(x: torch.Tensor, cos: torch.Tensor = cos, sin: torch.Tensor = sin) -> torch.Tensor:
            half = x.shape[-1] // 2
            return x * cos[:, None] + torch.cat((-x[..., half:], x[..., :half]), -1) * sin[:, None]

        query = turned(attention.q_proj(normed).view(split).transpose(1, 2))[:, :, memory:]
        key = turned(attention.k_proj(normed).view(split).transpose(1, 2)).repeat_interleave(2, 1)
        value = attention.v_proj(normed).view(split).transpose(1, 2).repeat_interleave(2, 1)
        weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
        mixed = attention.o_proj((weights @ value).transpose(1, 2).flatten(2))
        hidden = hidden + mixed
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    assert torch.allclose(model.logits(hidden)[:, -1], seen_logits[0], atol=1e-4)
    assert running.tokens == [int(model.logits(hidden)[0, -1].argmax())]


def test_transformers_generate_works_on_a_reading(engine: BlockEngine, model: BlockLLM) -> None:
    """Greedily it says what the engine says; a padded batch gives each question what it gets alone."""
    learn(engine, TEXTS)
    questions = [ask("Who rules?"), ask("Which river rose, and when?")]
    prompts = [engine.conversation.tokens(question) for question in questions]
    read = answer(engine, questions[0], Asking(limit=1)).read
    updates = sorted(each.update for each in read)
    wanted = Asking(limit=7, allowed=lambda numbers: np.isin(numbers, updates))
    said = [_tokens(engine, question, wanted) for question in questions]
    end = engine.conversation.end
    longest = max(map(len, prompts))
    ids = torch.tensor([[end or 0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    generation = GenerationConfig(max_new_tokens=7, do_sample=False, eos_token_id=end, pad_token_id=end)
    for number, prompt in enumerate(prompts):
        llama, cache = reading(model, *engine.memory.projected(updates))
        alone: torch.Tensor = llama.generate(  # type: ignore[misc, assignment]
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), past_key_values=cache, generation_config=generation
        )
        assert alone[0, len(prompt) :].tolist() == said[number]
    llama, cache = reading(model, *engine.memory.projected(updates))
    together: torch.Tensor = llama.generate(  # type: ignore[misc, assignment]
        ids, attention_mask=mask, past_key_values=cache, generation_config=generation
    )
    for row, wanted_tokens in zip(together[:, longest:].tolist(), said, strict=True):
        assert row[: len(wanted_tokens)] == wanted_tokens


def begin(engine: BlockEngine, question: list[dict[str, str]], asking: Asking) -> Running:
    return engine.begin([Asked(prompt=engine.compose(question), asking=asking)])[0]


def _tokens(engine: BlockEngine, question: list[dict[str, str]], asking: Asking) -> list[int]:
    running = begin(engine, question, asking)
    while running.finish_reason is None:
        engine.decode()
    return running.tokens


def test_grounded_and_ungrounded_questions_run_side_by_side_as_each_alone(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    engine.config = ReadingConfig()
    questions = [ask(text) for text in (*TEXTS, "?", "zzzz qqqq", "What is 7 times 8?")]
    alone = [answer(engine, question, Asking(limit=9)) for question in questions]
    assert {done.grounded for done in alone} == {True, False}
    assert answer_together(engine, questions, Asking(limit=9)) == alone


def test_read_one_version_an_answer_goes_on_with_the_blocks_that_it_copied(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    whole = answer(engine, ask(TEXTS[0]), Asking(limit=8))
    running = begin(engine, ask(TEXTS[0]), Asking(limit=8))
    while running.finish_reason is None:
        learn(engine, [f"{len(running.tokens)} other news"])
        engine.decode()
    assert engine.completion(running) == whole
    assert 0 not in engine.memory.updates()


def test_the_space_that_an_answer_from_memory_opens_with_is_not_shown(engine: BlockEngine) -> None:
    tokens = engine.encode(" Ada  did.")
    for read, shown in (((Read(update=0, score=1.0),), "Ada  did."), ((), " Ada  did.")):
        running = Running((256,), Asking(limit=len(tokens)), (), engine.conversation, read, bool(read))
        said = ""
        for token in tokens:
            running.take(token)
            said += running.new_text()
        assert (said, running.completion().text) == (shown, shown)


def test_an_answer_that_says_it_does_not_know_cites_nothing(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    running = begin(engine, ask(TEXTS[0]), Asking(limit=1))
    running.text = UNKNOWN
    assert (engine.completion(running).grounded, engine.completion(running).read) == (False, ())


def test_sampling_is_transformers_own_and_repeats_with_its_seed(engine: BlockEngine) -> None:
    def sampled(seed: int) -> str:
        return answer(engine, ask("Who?"), Asking(limit=12, temperature=3.0, top_p=0.99, seed=seed)).text

    assert sampled(1) == sampled(1) and len({sampled(seed) for seed in range(4)}) > 1


def test_scores_of_a_place_left_empty_do_not_count(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    engine.commit((), forget=[0])
    assert 0 not in {each.update for each in answer(engine, ask(TEXTS[0]), Asking(limit=1)).read}
    assert len(engine.memory.updates()) == 4


def test_bits_are_kept_as_they_are() -> None:
    values = torch.tensor([1.0, -0.0, float("nan"), float("inf")], dtype=torch.bfloat16)
    assert bits(values).tolist() == values.view(torch.uint16).tolist()


# ---------------------------------------------------------------------- answers that join and leave


def test_answers_join_and_leave_a_running_batch_singly_and_say_what_each_says_alone(engine: BlockEngine) -> None:
    """Prompts and answers of any length, with memory and without, coming and going: places are reused, rooms outgrown."""
    learn(engine, TEXTS)
    engine.config = ReadingConfig()
    questions = [ask(text * (1 + number % 3)) for number, text in enumerate((*TEXTS, "?", "zzzz qqqq", "What is 7 times 8?", "Bo " * 45))]
    limits = [3, 150, 9, 1, 30, 140, 5, 77, 20]
    alone = [answer(engine, question, Asking(limit=limit)) for question, limit in zip(questions, limits, strict=True)]
    assert {done.grounded for done in alone} == {True, False}
    running: list[Running] = []
    waiting = list(zip(questions, limits, strict=True))
    while waiting or any(each.finish_reason is None for each in running):
        some = [waiting.pop(0) for _ in range(min(2, len(waiting)))]
        if some:
            running += engine.begin([Asked(prompt=engine.compose(question), asking=Asking(limit=limit)) for question, limit in some])
        engine.decode()
    assert [engine.completion(each) for each in running] == alone
    for each in running:
        engine.end(each)
    assert not list(engine._arenas) and not engine._running


def test_an_answer_that_is_let_go_frees_its_place_and_the_others_go_on(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    whole = answer(engine, ask(TEXTS[3]), Asking(limit=12))
    gone, kept = engine.begin([Asked(prompt=engine.compose(ask(text)), asking=Asking(limit=12)) for text in (TEXTS[1], TEXTS[3])])
    engine.decode()
    engine.end(gone)
    while kept.finish_reason is None:
        engine.decode()
    assert engine.completion(kept) == whole and len(gone.tokens) == 2


def completed(engine: BlockEngine, asking: Asking) -> tuple[Completion, str]:
    """An answer, and the pieces of it as they could be shown."""
    running = begin(engine, ask("Who plays?"), asking)
    shown = running.new_text()
    while running.finish_reason is None:
        engine.decode()
        shown += running.new_text()
    return engine.completion(running), shown


def test_a_stop_string_ends_an_answer_and_nothing_of_it_is_shown(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    whole, shown = completed(engine, Asking(limit=40))
    assert shown == whole.text and len(whole.text) > 8
    stop = re.findall(r"[!-~]{2,}", whole.text)[1]
    cut = whole.text.index(stop)
    stopped, shown = completed(engine, Asking(limit=40, stop=("never", stop)))
    assert (stopped.text, stopped.finish_reason, shown) == (whole.text[:cut], "stop", whole.text[:cut])
    assert stopped.completion_tokens < whole.completion_tokens


def test_log_probabilities_are_the_models_own(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    done, _ = completed(engine, Asking(limit=5, top_logprobs=3))
    assert len(done.logprobs) == done.completion_tokens
    for each in done.logprobs:
        assert len(each.top) == 3 and (each.token, each.logprob) == each.top[0] and each.logprob < 0


def test_the_processors_are_those_that_generate_would_use(engine: BlockEngine, model: BlockLLM) -> None:
    learn(engine, TEXTS)
    engine.config = ReadingConfig(margin=1e9, doubt=1e9)  # the base model itself
    prompt = engine.conversation.tokens(ask("Who rules?"))
    settings = GenerationConfig(max_new_tokens=12, do_sample=False, repetition_penalty=1.7, eos_token_id=257, pad_token_id=257)
    theirs: torch.Tensor = model.base.generate(  # type: ignore[misc, assignment]
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=settings
    )
    ours = _tokens(engine, ask("Who rules?"), Asking(limit=12, repetition_penalty=1.7))
    assert ours == theirs[0, len(prompt) :].tolist() != _tokens(engine, ask("Who rules?"), Asking(limit=12))


def test_prompts_of_any_length_are_begun_side_by_side_as_each_alone(engine: BlockEngine) -> None:
    """Short and long ones, with and without memory, of several rooms: each is padded to the longest of all, not of its neighbours."""
    learn(engine, TEXTS)
    engine.config = ReadingConfig()
    questions = [ask(text) for text in ("Ada " * 40, "zz", TEXTS[0], "q" * 150, "?", TEXTS[3] * 6, "What is 7 times 8?", "Bo plays")]
    alone = [answer(engine, question, Asking(limit=7)) for question in questions]
    assert {done.grounded for done in alone} == {True, False}
    assert answer_together(engine, questions, Asking(limit=7)) == alone
    assert answer_together(engine, questions[::-1], Asking(limit=7)) == alone[::-1]


def test_nothing_is_left_of_questions_that_could_not_be_begun(engine: BlockEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(engine, TEXTS)
    whole = answer(engine, ask(TEXTS[1]), Asking(limit=9))
    running = begin(engine, ask(TEXTS[1]), Asking(limit=9))
    with monkeypatch.context() as patch:
        patch.setattr(engine.memory.model, "logits", lambda hidden: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            begin(engine, ask(TEXTS[2]), Asking(limit=9))
    while running.finish_reason is None:
        engine.decode()
    assert engine.completion(running) == whole and not list(engine._arenas)


def test_what_is_read_on_trial_and_does_not_tell_is_answered_by_the_base_model(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    asking = Asking(limit=6)
    read = answer(engine, ask("Who rules?"), asking)
    engine.config = ReadingConfig(margin=1e9, doubt=1e9)
    plain = answer(engine, ask("Who rules?"), asking)
    assert read.grounded and not plain.grounded and read.text != plain.text

    on_trial = ReadingConfig(margin=1e9, doubt=-1e9, evidence=-1e9, share=1e-300)
    engine.config = on_trial
    assert answer(engine, ask("Who rules?"), asking) == read  # it tells something
    engine.config = replace(on_trial, evidence=1e9)
    assert answer(engine, ask("Who rules?"), asking) == plain
    engine.config = replace(on_trial, evidence=1e9, margin=-1e9)
    trusted = answer(engine, ask("Who rules?"), asking)
    assert (trusted.grounded, trusted.read) == (True, read.read)  # of a tiny model, which does not go on as a trained reader would
    assert not engine._running


def test_of_questions_side_by_side_each_is_judged_for_itself(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    asking, asked = Asking(limit=6), ("Who rules?", "Who plays chess in the evening?", "When does the ferry leave?")
    judged = []
    for evidence in range(-30, 31):
        engine.config = ReadingConfig(margin=1e9, doubt=-1e9, evidence=float(evidence), share=1e-300)
        running = engine.begin([Asked(prompt=engine.compose(ask(question)), asking=asking) for question in asked])
        while any(each.finish_reason is None for each in running):
            engine.decode()
        together = [engine.completion(each) for each in running]
        assert together == [answer(engine, ask(question), asking) for question in asked]
        judged.append([each.grounded for each in together])
    assert any(len(set(row)) == 2 for row in judged), "some of them tell at some evidence, and others do not"
    assert not engine._running


def test_where_blocks_tell_not_knowing_is_out(engine: BlockEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(engine, TEXTS)
    likeliest = begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0]
    unknown = engine.decode_tokens([likeliest])
    monkeypatch.setattr(block_engine, "OPENING", "")
    monkeypatch.setattr(block_engine, "UNKNOWN", unknown)
    assert engine.conversation.encode(unknown)[0] == likeliest
    assert begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0] != likeliest
    engine.config = replace(ALWAYS, evidence=1e6)
    assert begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0] == likeliest


def test_a_name_may_begin_with_the_token_that_not_knowing_begins_with(engine: BlockEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(engine, TEXTS)
    monkeypatch.setattr(block_engine, "OPENING", "")

    def whole() -> Running:
        (running,) = engine.begin([Asked(prompt=engine.compose(ask("Who rules?")), asking=Asking(limit=3))])
        while running.finish_reason is None:
            engine.decode()
        return running

    first, second = answer_tokens = whole().tokens[:2]
    others = (token for token in range(first + 1, 200) if token != second)
    other = next(token for token in others if engine.conversation.encode(engine.decode_tokens([first, token])) == [first, token])

    def most_evidence(unknown: list[int]) -> float:
        """Up to which it is still read."""
        monkeypatch.setattr(block_engine, "UNKNOWN", engine.decode_tokens(unknown))
        for evidence in range(200, -200, -1):
            engine.config = ReadingConfig(margin=1e9, doubt=-1e9, evidence=evidence / 4, share=1e-300)
            running = whole()
            if running.read:
                assert unknown == [first] or running.tokens[:2] == answer_tokens
                return evidence / 4
        raise AssertionError("it is never read")

    assert most_evidence([first]) < most_evidence([first, other])
    assert not engine._running


@pytest.mark.parametrize("follows", [0.0, 1.0])
def test_a_believed_answer_begins_with_it_only_as_a_name_does(engine: BlockEngine, monkeypatch: pytest.MonkeyPatch, follows: float) -> None:
    """ "I" of which most is "I don't know." is no beginning where that is out: "I didn't know." would come of it."""
    learn(engine, TEXTS)
    first, second = begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0], engine.encode("z")[0]
    monkeypatch.setattr(block_engine, "OPENING", "")
    monkeypatch.setattr(block_engine, "UNKNOWN", engine.decode_tokens([first, second]))
    monkeypatch.setattr(block_engine, "LIKELY", 0.0)
    monkeypatch.setattr(BlockEngine, "_follows", lambda self, begun, *begins: torch.full((len(begun),), follows))
    assert (begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0] == first) is (follows == 0)


def test_a_reader_that_thinks_of_not_knowing_says_so_and_the_base_model_is_left_alone(engine: BlockEngine) -> None:
    learn(engine, TEXTS)
    begins = engine.conversation.encode(f"{OPENING}{UNKNOWN}")[0]
    before = begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0]
    assert before != begins
    engine.config = replace(ALWAYS, evidence=1e6)
    assert begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0] == begins
    assert begin(engine, ask("Who rules?"), Asking(limit=3, temperature=1.5, seed=3)).tokens[0] == begins
    engine.config = ReadingConfig(margin=1e9, doubt=1e9, evidence=1e6)
    assert begin(engine, ask("Who rules?"), Asking(limit=3)).tokens[0] != begins
