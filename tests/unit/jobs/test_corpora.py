"""The training text: seeded, within one chunk, answered by its own text, held-out parts apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from jobs.corpora.articles import NEWS, article_examples, read_articles
from jobs.corpora.cutting import add_line
from jobs.corpora.edits import edit_examples
from jobs.corpora.entries import Entry, parse_entry, plain, sentences, without_notes
from jobs.corpora.examples import Example, Fit, Split, estimate_tokens, header_line, split_of
from jobs.corpora.fields import field_examples
from jobs.corpora.general import general_questions
from jobs.corpora.leaders import leader_examples
from jobs.corpora.mixture import Sources, generators, mixture
from jobs.corpora.offices import CHIEF, HEAD, accepted_names, offices_of, parse_office, parse_since, spoken_title
from jobs.corpora.paragraphs import paragraph_examples
from jobs.corpora.stories import story_examples, templates
from jobs.corpora.wiki import wiki_examples

FIT = Fit(count_tokens=estimate_tokens, max_tokens=80)
COUNTRIES = (
    "Algeria",
    "Belgium",
    "Chile",
    "Denmark",
    "Ecuador",
    "Fiji",
    "Ghana",
    "Haiti",
    "India",
    "Jordan",
    "Kenya",
    "Laos",
    "Malta",
    "Norway",
    "Oman",
    "Peru",
    "Spain",
    "Togo",
)


def country(index: int, name: str) -> Entry:
    surnames = ("ANDERS", "BOKO", "CASTRO", "DIALLO", "EKBERG", "FOFANA", "GRUBER")
    president = f"President Ada {surnames[index % 7]} (since 3 May 200{index % 10})"
    minister = f"Prime Minister Ben {surnames[(index + 3) % 7]} (since 9 July 2011); note - he may resign"
    government = {
        "Country name": {"conventional short form": {"text": name}},
        "Capital": {"name": {"text": f"City{index}"}},
        "Executive branch": {CHIEF: {"text": president}, HEAD: {"text": minister}},
    }
    people = {"Population": {"text": f"{index + 1},000,000 (July 2015 est.)"}, "Languages": {"text": f"Tongue{index} (official), French"}}
    return parse_entry(f"c{index}", {"Government": government, "People and Society": people})


ENTRIES = [country(index, name) for index, name in enumerate(COUNTRIES)]
PARAGRAPHS = [
    {
        "title": f"Article_{index}",
        "text": f"The river Orla rises in Hill{index}. It is 80 km long. Its mouth is at Port{index}. Nobody lives there in winter.",
        "questions": [
            {"question": "Where does the river Orla rise?", "answers": [f"Hill{index}"]},
            {"question": "At which place is the mouth?", "answers": [f"Port{index}"]},
            {"question": "What did the queen think of railways?", "answers": ["80 km"]},
        ],
    }
    for index in range(40)
]
EDITS = [
    {
        "subject": f"Firm {index}",
        "question": f"What does Firm {index} make?",
        "target_new": f"tool {index}",
        "paraphrase": f"Firm {index}'s product?",
    }
    for index in range(20)
]
Made = Callable[[int, Split], Iterator[Example]]
KINDS: dict[str, Made] = {
    "leaders": lambda seed, split: leader_examples(ENTRIES, FIT, seed, split),
    "fields": lambda seed, split: field_examples(ENTRIES, FIT, seed, split),
    "stories": lambda seed, split: story_examples(seed, split),
    "news": lambda seed, split: article_examples(read_articles([NEWS]), "news", seed, split),
    "paragraphs": lambda seed, split: paragraph_examples(PARAGRAPHS, FIT, seed, split),
    "edits": lambda seed, split: edit_examples(EDITS, FIT, seed, split),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_example_fits_one_chunk_and_answers_its_own_questions(kind: str) -> None:
    for example in islice(KINDS[kind](1, Split.TRAIN), 150):
        assert example.kind == kind and (kind in ("stories", "news") or FIT(example.text, example.header))
        assert example.questions
        for question, answers in example.questions:
            assert answers[0] in example.text and "{" not in question


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_same_seed_tells_the_same(kind: str) -> None:
    first, again, other = (list(islice(KINDS[kind](seed, Split.TRAIN), 30)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("kind", ["leaders", "fields", "paragraphs", "news"])
def test_held_out_countries_and_articles_are_never_trained_on(kind: str) -> None:
    seen, held_out = ({example.title for example in islice(KINDS[kind](1, split), 300)} - {None} for split in Split)
    assert seen and held_out and not seen & held_out


def test_held_out_templates_tell_other_news() -> None:
    asked = {split: {example.questions[0][0].split()[0] for example in islice(KINDS["stories"](1, split), 100)} for split in Split}
    parts = {split: [t for t in templates() if split_of(f"template/{t.title}") is split] for split in Split}
    assert len(templates()) >= 60 and len({template.title for template in templates()}) == len(templates())
    assert len(parts[Split.HELD_OUT]) >= 5 and all(asked.values())


def test_leaders_are_exchanged_so_that_only_memory_can_tell() -> None:
    told = {(e.title, e.questions[0][1][0]) for e in islice(KINDS["leaders"](3, Split.TRAIN), 400) if e.title == "Algeria"}
    assert len({name for _, name in told}) > 5


def test_stories_do_not_repeat_themselves() -> None:
    texts = [example.text for example in islice(KINDS["stories"](5, Split.TRAIN), 500)]
    assert len(set(texts)) == 500


def test_news_are_asked_in_other_words_and_of_what_they_leave_open() -> None:
    items = read_articles([NEWS])
    assert len({item["text"] for item in items}) == len(items) > 500
    for item in items:
        assert len(item["questions"]) >= 4 and item["untold"]
        for each in item["questions"]:
            (answer,) = each["answers"]
            assert answer in item["text"] and answer.lower() not in each["question"].lower(), each
    assert all(example.untold for example in islice(KINDS["news"](1, Split.TRAIN), 50))


def test_stories_give_each_question_one_answer_that_it_does_not_name() -> None:
    for example in islice(KINDS["stories"](7, Split.TRAIN), 500):
        assert "[" not in example.text and "{" not in example.chunk_text
        assert all(answers[0] not in question for question, answers in example.questions)


def test_a_paragraph_is_asked_only_what_its_window_tells() -> None:
    for example in islice(KINDS["paragraphs"](1, Split.TRAIN), 50):
        assert all("railways" not in question for question, _ in example.questions)


def test_a_revised_story_comes_after_the_one_that_it_contradicts() -> None:
    told = list(islice(story_examples(3, Split.TRAIN), 400))
    pairs = [(one, other) for one, other in pairwise(told) if one.subject == other.subject]
    assert len(pairs) > 20
    assert any(dict(one.questions) != dict(other.questions) for one, other in pairs)


def test_summaries_are_asked_what_their_own_sentences_say() -> None:
    text = (
        "Orla Quist (4 May 1901 \u2013 1970) was a Danish painter of harbours. She was born in Aarhus and known for her pale light at sea."
    )
    summaries = [{"title": f"Orla Quist {number}", "extract": text} for number in range(20)]
    asked = {question: answers[0] for example in islice(wiki_examples(summaries, 1), 60) for question, answers in example.questions}
    assert all(answer in text for answer in asked.values())
    assert {"a Danish painter of harbours", "4 May 1901"} <= set(asked.values())


def test_general_questions_have_no_blanks_and_their_parts_are_apart() -> None:
    train, held_out = (set(general_questions(split)) for split in Split)
    assert len(train) > 200 and len(held_out) > 40
    assert not any("{" in question for question in train | held_out)


def test_the_mixture_keeps_to_its_weights_and_leaves_out_what_has_nothing(tmp_path: Path) -> None:
    (tmp_path / "paragraphs.jsonl").write_text("\n".join(map(json.dumps, PARAGRAPHS)))
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, EDITS)))
    sources = Sources(paragraphs=tmp_path / "paragraphs.jsonl", edits=(tmp_path / "edits.jsonl",))
    drawn = list(islice(mixture(generators(sources, FIT, 1), 1, {"stories": 3, "edits": 1, "leaders": 9}), 400))
    share = sum(example.kind == "stories" for example in drawn) / 400
    assert {example.kind for example in drawn} == {"stories", "edits"} and 0.65 < share < 0.85
    assert list(mixture(generators(sources, FIT, 1), 1, {"leaders": 1})) == []
    assert {example.kind for example in islice(mixture(generators(sources, FIT, 1), 1), 400)} >= {"squad", "paragraphs", "stories", "edits"}


def test_an_entry_is_read_without_its_markup() -> None:
    text = "<p>C&ocirc;te <em>d'Or</em></p>West&nbsp;side ++ east"
    assert plain(text) == "Côte d'Or; West side; east"
    entry = parse_entry("xy", {"A": {"B": {"text": "1", "note": "n", "C": {"text": "<br>2"}}, "D": {"text": None}}, "E": "no fields"})
    assert [field.line for field in entry.fields] == ["B: 1", "B - C: 2"] and entry.name == "XY"
    assert without_notes("Ada (since 2001); note - she may resign") == "Ada (since 2001)"


def test_sentences_are_cut_apart_and_lost_nowhere() -> None:
    text = "It rained in June. Rivers rose; some fled. J. Smith stayed."
    assert " ".join(sentences(text)) == text and sentences(text)[1] == "Rivers rose;"


def test_a_line_is_cut_at_its_sentences_then_at_its_items() -> None:
    words = Fit(count_tokens=lambda text: len(text.split()), max_tokens=5)
    assert add_line("", "one two three. four five six.", words, "") == "one two three."
    assert add_line("", "one two, three four, five six", words, "") == "one two, three four"
    assert add_line("one two three four", "five six", words, "") is None
    assert add_line("", "one two three", words, "a header of four") is None


@pytest.mark.parametrize(
    ("text", "title", "name", "since"),
    [
        ("Prime Minister Sifi GHRIEB (since 28 August 2025)", "Prime Minister", "Sifi GHRIEB", "2025-08-28"),
        ("President Col. Mamady DOUMBOUYA (since 17 Sept 2026)", "President", "Mamady DOUMBOUYA", "2026-09-17"),
        ("King CHARLES III (since 8 September 2022); represented by X", "King", "CHARLES III", "2022-09-08"),
        ("Prime Minister ABIY Ahmed Ali (since April 2018)", "Prime Minister", "ABIY Ahmed Ali", "2018-04-01"),
    ],
)
def test_an_office_is_read_from_its_text(text: str, title: str, name: str, since: str) -> None:
    office = parse_office(HEAD, text)
    assert office is not None and office.since is not None
    assert (office.title, office.name, office.since.isoformat()) == (title, name, since)


@pytest.mark.parametrize(
    "text", ["President (vacant)", "Sébastien LECORNU (since 10 September 2025)", "President of the Islamic Q (since 2014)", ""]
)
def test_what_is_no_office_in_the_usual_form_is_left_out(text: str) -> None:
    assert parse_office(CHIEF, text) is None


def test_offices_are_spoken_of_as_people_do() -> None:
    assert spoken_title("Premier", "Cayman Islands") == "premier of the Cayman Islands"
    assert spoken_title("President", "The Gambia") == "president of the Gambia"
    assert accepted_names("PAK Won-il") == ("PAK Won-il",) and accepted_names("Bart DE WEVER")[1] == "DE WEVER"
    assert parse_since("yesterday") is None and [office.role for office in offices_of(ENTRIES[0])] == [CHIEF, HEAD]


def test_a_header_holds_what_is_there() -> None:
    assert header_line("Algeria", None, 0) == "Algeria | 1 Jan 1970\n" and header_line(None, None, None) == ""
