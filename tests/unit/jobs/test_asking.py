"""Questions from a parse: the rules ask what the sentence answers, and the answer is a whole phrase of it."""

from __future__ import annotations

import random

from jobs.corpora.asking import Word, asked_of, subtree, text_of


def parse(rows: str) -> list[Word]:
    """`text lemma tag dep head entity` a line; a dot for no entity."""
    found = []
    for line in rows.strip().splitlines():
        text, lemma, tag, dep, head, entity = line.split()
        found.append(Word(text, lemma, tag, dep, int(head), "" if entity == "." else entity, True))
    return found


ACQUIRED = parse(
    """
    In in IN prep 5 .
    1998 1998 CD pobj 0 DATE
    the the DT det 4 .
    city city NN compound 4 .
    museum museum NN nsubj 5 .
    acquired acquire VBD ROOT 5 .
    two two CD nummod 7 CARDINAL
    paintings painting NNS dobj 5 .
    from from IN prep 5 .
    a a DT det 10 .
    dealer dealer NN pobj 8 .
    in in IN prep 10 .
    Ghent Ghent NNP pobj 11 GPE
    """
)
BORN = parse(
    """
    She she PRP nsubjpass 2 .
    was be VBD auxpass 2 .
    elected elect VBN ROOT 2 .
    mayor mayor NN oprd 2 .
    in in IN prep 2 .
    Leeds Leeds NNP pobj 4 GPE
    """
)
RELATIVE = parse(
    """
    Ada Ada NNP nsubj 1 PERSON
    was be VBD ROOT 1 .
    a a DT det 3 .
    chemist chemist NN attr 1 .
    who who WP nsubj 5 .
    found find VBD relcl 3 .
    radium radium NN dobj 5 .
    """
)


def asked(words: list[Word], title: str = "Ada Rossi") -> dict[str, str]:
    """All that many draws ask."""
    return {question: answers[0] for seed in range(60) for question, answers in asked_of(words, title, random.Random(seed))}


def test_every_part_of_a_sentence_is_asked_for() -> None:
    made = asked(ACQUIRED)

    assert made["What did the city museum acquire from a dealer in Ghent in 1998?"] == "two paintings"
    assert made["What acquired two paintings from a dealer in Ghent in 1998?"] == "the city museum"
    assert made["How many paintings did the city museum acquire from a dealer in Ghent in 1998?"] == "two"
    assert made["When did the city museum acquire two paintings from a dealer in Ghent?"] == "1998"
    assert made["From what did the city museum acquire two paintings in 1998?"] == "a dealer in Ghent"


def test_answers_stand_in_the_sentence_and_say_what_the_question_does_not() -> None:
    for words in (ACQUIRED, BORN, RELATIVE):
        sentence = text_of(words, range(len(words)))
        for question, answer in asked(words).items():
            assert answer in sentence and question.endswith("?") and question[0].isupper()
            assert not set(answer.lower().split()) <= set(question.lower().strip("?").split())


def test_a_pronoun_is_replaced_by_the_title_and_is_no_answer() -> None:
    made = asked(BORN)

    assert made["Where was Ada Rossi elected mayor?"] == "Leeds"
    assert "She" not in made.values()


def test_a_relative_clause_asks_for_what_it_is_about() -> None:
    assert asked(RELATIVE)["Who found radium?"] == "a chemist"


def test_what_is_no_single_clause_is_not_asked_about() -> None:
    fragment = [word for word in ACQUIRED if word.text != "acquired"]

    assert not asked([Word(each.text, each.lemma, each.tag, each.dep, 0, each.entity, True) for each in fragment])


def test_a_subtree_is_a_phrase() -> None:
    assert text_of(ACQUIRED, subtree(ACQUIRED, 10)) == "a dealer in Ghent"
