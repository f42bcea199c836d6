"""`python -m jobs.evaluate`: every case starts from the same full pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.evaluate import Case, CasesError, Examiner, Verdict, _document, read_cases, totals
from model.checkpoint import load_model, load_pool
from model.conversation import Answerer
from model.memory.tokens import MemoryPool
from tests.doubles.tiny import tiny_checkpoint

CASE = Case(
    documents=("The mayor of Zarnok is Ada Quill.", "Zarnok lies by the sea."), question="Who is the mayor?", answers=("Ada Quill",)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("evaluated"), K=32, blocks=4)


@pytest.fixture
def examiner(folder: Path) -> Callable[[int], Examiner]:
    """With its pool filled; the argument: how many unrelated documents come after each case."""

    def examiner(after: int) -> Examiner:
        model = load_model(folder)
        unrelated = [_document(f"Story {number} tells of something else.", title="Tale", source="Paper") for number in range(7)]
        made = Examiner(MemoryPool(model, seed=0, spare_blocks=5), Answerer.of(model, folder), unrelated, after)
        made.fill()
        return made

    return examiner


def sha256(pool: MemoryPool) -> str:
    with pool.hold() as version:
        layers = [(layer.slots_N.tobytes(), layer.memory_ND.numpy().tobytes()) for layer in pool.layers(version)]
    return hashlib.sha256(b"".join(part for layer in layers for part in layer)).hexdigest()


def test_the_pool_is_filled_several_times_over(examiner: Callable[[int], Examiner]) -> None:
    pool = examiner(0).pool
    assert pool.num_tokens == 128 and pool.update_number >= 16 and pool.published is pool.head


def test_each_case_starts_from_the_same_full_pool(examiner: Callable[[int], Examiner]) -> None:
    room = examiner(2)
    full = sha256(room.pool), room.pool.update_number
    first, other, again = (room.examine(case) for case in (CASE, Case(documents=("x" * 200,), question="?", answers=("y",)), CASE))
    assert first == again and (sha256(room.pool), room.pool.update_number) == full
    assert other.before != other.after


def test_a_case_takes_its_documents_updates_and_one_for_each_unrelated_document(examiner: Callable[[int], Examiner]) -> None:
    alone, followed = (examiner(after).examine(CASE) for after in (0, 3))
    # A byte is a token, and no document may take more than a quarter of four blocks; a tale is cut like any other.
    assert alone.updates == 2 and followed.updates == 5
    assert alone.before == followed.before and alone.after != followed.after


def test_more_updates_than_the_pool_holds_are_possible(examiner: Callable[[int], Examiner]) -> None:
    assert examiner(20).examine(CASE).updates > 20


def test_what_a_document_may_not_take_is_counted(examiner: Callable[[int], Examiner]) -> None:
    long = Case(documents=("word " * 100,), question="?", answers=("y",))
    assert examiner(0).examine(long).tokens_left_out > 0


def test_right_answers_are_counted_before_and_after() -> None:
    def verdict(before: bool, after: bool) -> Verdict:
        return Verdict(
            question="?", answers=("y",), before="", after="", before_correct=before, correct=after, updates=1, tokens_left_out=0
        )

    found = totals([verdict(False, True), verdict(False, True), verdict(True, False), verdict(False, False)])
    assert found == {"n": 4, "before_correct": 1, "correct": 2, "accuracy_before": 0.25, "accuracy_after": 0.5}


# ---------------------------------------------------------------------- the file

GOOD = {"documents": ["Ada won."], "question": "Who won?", "answers": ["Ada"]}


def test_cases_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text("\ufeff" + json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | {"id": 7, "documents": ["a", "b"]}) + "\n", encoding="utf-8")
    assert [len(case.documents) for case in read_cases(file)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: Invalid JSON"),
        ("[]", "line 2: "),
        ('{"documents": ["a"], "question": "?"}', "line 2: answers: Field required"),
        (json.dumps(GOOD | {"answers": []}), "line 2: answers: none"),
        (json.dumps(GOOD | {"answers": ["the", "!"]}), "line 2: answers: none"),
        (json.dumps(GOOD | {"answers": "Ada"}), "line 2: answers"),
        (json.dumps(GOOD | {"answers": [7]}), "line 2: answers.0"),
        (json.dumps(GOOD | {"documents": []}), "line 2: documents: there is none"),
        (json.dumps(GOOD | {"documents": ["  "]}), "line 2: documents.0"),
        (json.dumps(GOOD | {"question": ""}), "line 2: question"),
    ],
)
def test_a_bad_line_is_named_in_one_line(line: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(CasesError) as caught:
        read_cases(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_empty_or_no_text_is_named(tmp_path: Path) -> None:
    for name, content, says in (("none", None, "cannot be read"), ("empty", b"\n", "holds no case"), ("bytes", b"\xff\xfe", "not UTF-8")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CasesError, match=says):
            read_cases(tmp_path / name)


def test_a_checkpoint_that_brings_its_own_memory_is_filled_like_any_other(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, K=32, blocks=4, initialized=True)
    model = load_model(folder)
    pool = MemoryPool(model, seed=0, spare_blocks=3)
    load_pool(folder, model, pool)
    unrelated = [_document(f"Story {number} tells of something else.", title="Tale", source="Paper") for number in range(7)]
    room = Examiner(pool, Answerer.of(model, folder), unrelated, 0)
    room.fill()
    assert pool.published is pool.head and room.examine(CASE).updates == 2
