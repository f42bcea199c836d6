"""`python -m jobs.evaluate`: one stream of cases and others, asked at its end; what is right, from where, and at what age."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.evaluate import Case, CasesError, case_documents, examine_each, examine_together, mixed, read_cases, verdict
from jobs.evaluation.pictures import accuracy_by_age
from jobs.evaluation.rag import Rag
from jobs.evaluation.students import EngineStudent, Reply, document_of
from jobs.evaluation.totals import totals
from model.block_engine import ReadingConfig
from model.loading import EngineOptions, load_engine
from tests.doubles.tiny import tiny_block_checkpoint, tiny_checkpoint

CASES = [
    Case(documents=("Ada rules Zarnok.", "Zarnok lies far."), question="Ada rules Zarnok.", answers=("Ada",)),
    Case(documents=("Bo mends clocks.",), question="Bo mends clocks.", answers=("clocks",)),
    Case(documents=(), question="9876543210?", answers=()),
]
OTHERS = [document_of(f"Tale {number} is told.", f"unrelated/{number}") for number in range(6)]


@pytest.fixture(scope="module", params=["blocks", "tokens"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], EngineStudent]:
    folder = tmp_path_factory.mktemp("evaluated")
    made = tiny_block_checkpoint(folder, K=32) if request.param == "blocks" else tiny_checkpoint(folder, K=32, blocks=4)
    options = EngineOptions(blocks=64, reading=ReadingConfig(share=1e-9))
    return lambda: EngineStudent(load_engine(made, "cpu", "float32", options), dense=False)


def test_cases_stand_in_the_files_order_and_the_others_are_spread_evenly() -> None:
    stream = mixed(CASES, OTHERS)
    assert [lesson.cases for lesson in stream] == [(0,), (), (), (0,), (), (), (1,), (), ()]
    assert case_documents(stream) == {0: ("case/0", "case/1"), 1: ("case/2",)}
    assert [lesson.cases for lesson in mixed(CASES, [])] == [(0,), (0,), (1,)]
    assert [lesson.cases for lesson in mixed([CASES[1], CASES[1]], OTHERS[:1])] == [(0, 1), ()]
    assert [lesson.cases for lesson in mixed(CASES[2:], OTHERS[:2])] == [(), ()]


def test_together_everything_is_asked_once_at_the_end_with_its_age(student: Callable[[], EngineStudent]) -> None:
    taking = student()
    found = examine_together(taking, CASES, mixed(CASES, OTHERS))
    assert [each.age for each in found] == [5, 2, None]
    if taking.engine.kind == "blocks":
        assert [each.source_rank for each in found[:2]] == [1, 1]
        assert [each.source_correct for each in found] == [True, True, None]
        assert (found[2].grounded, found[2].correct) == (False, True)
    else:
        assert {each.grounded for each in found} == {None} and {each.source_rank for each in found} == {None}
    assert totals(found, taking)["n"] == 3


def test_each_case_alone_is_taken_back_before_the_next(student: Callable[[], EngineStudent]) -> None:
    taking = student()
    stream = mixed([CASES[1], CASES[1]], OTHERS)
    first, again = examine_each(taking, [CASES[1], CASES[1]], stream)
    if taking.engine.kind == "blocks":
        assert first.answer == again.answer and first.source_rank == 1
        assert taking.engine.remembered == len(OTHERS)


def test_a_case_without_documents_is_right_where_nothing_was_read_or_the_answer_says_so() -> None:
    def right(grounded: bool | None, text: str) -> bool:
        return verdict(CASES[2], Reply(text=text, sources=(), grounded=grounded, prompt_tokens=1, seconds=0.1), (), None).correct

    assert [right(False, "42"), right(True, "42"), right(True, "I don't know."), right(None, "42")] == [True, False, True, False]


def test_totals_by_age_are_quarters(student: Callable[[], EngineStudent]) -> None:
    def made(age: int, good: bool) -> object:
        case = Case(documents=("x",), question="?", answers=("y",))
        return verdict(case, Reply(text="y" if good else "n", sources=("x",), grounded=True, prompt_tokens=3, seconds=1.0), ("x",), age)

    found = totals([made(age, age < 20) for age in (3, 7, 10, 19, 20, 30, 40, 50)], student())  # type: ignore[misc]
    assert found["by_age"] == [
        {"from": 3, "to": 7, "n": 2, "accuracy": 1.0},
        {"from": 10, "to": 19, "n": 2, "accuracy": 1.0},
        {"from": 20, "to": 30, "n": 2, "accuracy": 0.0},
        {"from": 40, "to": 50, "n": 2, "accuracy": 0.0},
    ]
    assert (found["accuracy"], found["source_accuracy"], found["grounded"], found["prompt_tokens"]) == (0.5, 1.0, 1.0, 3.0)
    assert found["unread"] == {"n": 0, "grounded": None}


def test_rag_puts_the_best_passages_into_the_prompt_of_the_untouched_base(tmp_path: Path) -> None:
    rag = Rag(tiny_block_checkpoint(tmp_path, K=32), "cpu", most=2)
    assert rag.ask("Who?").sources == ()
    found = examine_together(rag, CASES, mixed(CASES, OTHERS))
    assert [each.source_rank for each in found[:2]] == [1, 1]
    assert found[0].prompt_tokens > 2 * len(CASES[0].question)
    rag.forget(["case/2"])
    assert "case/2" not in rag.ask("Bo mends clocks.").sources


def test_a_picture_is_drawn(student: Callable[[], EngineStudent], tmp_path: Path) -> None:
    found = examine_together(student(), CASES, mixed(CASES, OTHERS))
    accuracy_by_age(found, tmp_path / "a" / "age.png", {"among": 6})
    assert (tmp_path / "a" / "age.png").read_bytes().startswith(b"\x89PNG")


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
        ('{"documents": ["a"], "question": "?"}', "line 2: answers: none"),
        ('{"documents": ["a"], "answers": ["b"]}', "line 2: question: Field required"),
        (json.dumps(GOOD | {"answers": []}), "line 2: answers: none"),
        (json.dumps(GOOD | {"answers": ["the", "!"]}), "line 2: answers: none"),
        (json.dumps(GOOD | {"answers": "Ada"}), "line 2: answers"),
        (json.dumps(GOOD | {"answers": [7]}), "line 2: answers.0"),
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
