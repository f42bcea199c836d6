"""The demo's feed: the edition's own words, one chunk each, and questions about leaders who are new."""

from __future__ import annotations

from datetime import date

import pytest

from jobs.corpora.entries import Entry, parse_entry
from jobs.corpora.examples import Fit, estimate_tokens
from jobs.corpora.offices import CHIEF, HEAD
from jobs.demo.factbook import NEW_SINCE, candidates, documents, executive_documents, load_entries, questions
from jobs.demo.known_leaders import KNOWN_LEADERS
from model.assets import FACTBOOK_2025, cached
from model.scoring import contains_answer

FIT = Fit(count_tokens=estimate_tokens, max_tokens=80)


def entry(code: str, name: str, chief: str, head: str) -> Entry:
    government = {
        "Country name": {"conventional short form": {"text": name}},
        "Capital": {"name": {"text": "Alger&nbsp;City"}},
        "Executive branch": {CHIEF: {"text": chief}, HEAD: {"text": head}},
    }
    introduction = {
        "Background": {"text": "<p>People came early.</p> They stayed; President DOEHARD left. " + "They built many roads. " * 40}
    }
    return parse_entry(code, {"Introduction": introduction, "Geography": {"Climate": {"text": "arid; mild"}}, "Government": government})


ALGERIA = entry(
    "ag", "Algeria", "President Abdelmadjid TEBBOUNE (since 12 December 2019)", "Prime Minister Sifi GHRIEB (since 28 Aug 2025)"
)
GHANA = entry("gh", "Ghana", "President John Dramani MAHAMA (since 7 January 2025)", "President John Dramani MAHAMA (since 7 January 2025)")
BOLIVIA = entry(
    "bl", "Bolivia", "President Rodrigo PAZ Pereira (since 8 November 2025)", "President Rodrigo PAZ Pereira (since 8 November 2025)"
)
HAITI = entry("ha", "Haiti", "President (vacant)", "Prime Minister Alix Didier FILS-AIM&Eacute; (since 10 November 2024); note - acting")
ENTRIES = [ALGERIA, GHANA, BOLIVIA, HAITI]


def test_documents_are_the_editions_own_words_and_fit_one_chunk() -> None:
    feed = documents(ENTRIES, FIT)
    assert all(FIT(document.text, document.header) for document in feed) and len({document.document_id for document in feed}) == len(feed)
    texts = [document.text for document in feed if document.title == "Algeria"]
    assert texts[0].startswith("Executive branch - chief of state: President Abdelmadjid TEBBOUNE (since 12 December 2019)")
    assert any(text.startswith("Background: People came early. They stayed;") and text.endswith("roads.") for text in texts)
    assert "Capital - name: Alger City" in texts and "Climate: arid; mild" in texts


def test_both_leaders_share_a_document_only_where_they_fit_it() -> None:
    wide = executive_documents(ALGERIA, Fit(count_tokens=estimate_tokens, max_tokens=200))
    narrow = executive_documents(ALGERIA, Fit(count_tokens=estimate_tokens, max_tokens=60))
    assert [document.text.count("since") for document in wide] == [2]
    assert [document.text.count("since") for document in narrow] == [1, 1]


def test_asked_is_who_is_new_and_could_not_be_known() -> None:
    asked = {question.gold: question for question in candidates(ENTRIES, FIT)}
    assert sorted(asked) == ["Alix Didier FILS-AIMÉ", "Rodrigo PAZ Pereira", "Sifi GHRIEB"]
    assert ("gh", "MAHAMA") in KNOWN_LEADERS
    ghrieb = asked["Sifi GHRIEB"]
    assert ghrieb.question == "Who is the prime minister of Algeria?" and ghrieb.since == date(2025, 8, 28)
    assert contains_answer("it is Ghrieb, since August", ghrieb.answers)


def test_a_question_names_the_documents_that_answer_it() -> None:
    feed = {document.document_id: document for document in documents(ENTRIES, FIT)}
    for question in candidates(ENTRIES, FIT):
        assert question.document_id == question.told_in[0]
        assert all(question.gold in feed[told].text for told in question.told_in)


def test_the_seed_draws_the_questions() -> None:
    assert questions(ENTRIES, FIT, seed=1, n=2) == questions(ENTRIES, FIT, seed=1, n=2)
    assert len({tuple(question.gold for question in questions(ENTRIES, FIT, seed, n=2)) for seed in range(20)}) > 1
    with pytest.raises(ValueError, match="larger than population"):
        questions(ENTRIES, FIT, seed=1, n=4)


def test_the_edition_itself_gives_enough_to_ask() -> None:
    wheel = cached(FACTBOOK_2025)
    if wheel is None:
        pytest.skip("the wheel is not in the cache")
    found = candidates(load_entries(wheel), FIT)
    assert len(found) >= 60 and all(question.since >= NEW_SINCE for question in found)
