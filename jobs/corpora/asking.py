"""Questions from a sentence's dependency parse: any declarative prose becomes reading material with answers that are whole phrases.

    "In 1998 the museum acquired two paintings from a dealer in Ghent."
        -> Who or what acquired two paintings ...?     the museum
           What did the museum acquire ... in 1998?    two paintings
           When did the museum acquire two paintings?  1998

The rules are those of Heilman and Smith (2010) in small: a wh-phrase takes the place of a subject, an object, a complement or what
follows a preposition, the auxiliary goes before the subject. A parse is a tuple of `Word`s, so nothing here needs a parser.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobs.corpora.examples import Question

PLACES = frozenset({"GPE", "LOC", "FAC"})
_PRONOUNS = frozenset({"he", "she", "it"})
_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_CUT_OFF = frozenset({"conj", "cc", "punct", "advcl", "relcl", "parataxis", "ccomp"})
_EMPTY = frozenset(
    re.findall(r"\w+", "a an the it he she they them him his her its their this that these those one some part of who which")
)
LONGEST_QUESTION, LONGEST_ANSWER = 32, 14
"""In words."""
KEPT = 0.6
"""Of the circumstances (place, time, manner) in a question."""


@dataclass(frozen=True, slots=True)
class Word:
    """One token of a parse, with Universal-like relations as spaCy's English models give them.

    `head` is the index of the word it hangs on within the sentence; the root hangs on itself. `space` tells whether a blank follows.
    """

    text: str
    lemma: str
    tag: str
    dep: str
    head: int
    entity: str
    space: bool


@dataclass(frozen=True, slots=True)
class Clause:
    """The main clause of a sentence, as places of its words."""

    words: Sequence[Word]
    root: int
    subject: list[int]
    auxiliaries: list[int]
    before: list[int]
    after: list[list[int]]
    """What follows the verb, one list for each word that hangs on it."""


def asked_of(words: Sequence[Word], title: str, rng: random.Random) -> Iterator[Question]:
    """All questions that the rules make of one sentence and that it answers. A pronoun as subject is replaced by `title`."""
    sentence = text_of(words, range(len(words)))
    for question, answers in _all_of(words, title, rng):
        if answers[0] in sentence and _tells(question, answers[0]):
            yield question, answers


def _tells(question: str, answer: str) -> bool:
    """Whether an answer says something that the question does not, is more than a pronoun, and has its brackets whole."""
    asked = {word.lower() for word in re.findall(r"\w+", question)}
    said = [word.lower() for word in re.findall(r"\w+", answer)]
    return bool(set(said) - asked - _EMPTY) and all(line.count("(") == line.count(")") for line in (question, answer))


def _all_of(words: Sequence[Word], title: str, rng: random.Random) -> Iterator[Question]:
    clause = _clause(words)
    if clause is None:
        return
    yield from _named(words)
    subject = _subject_text(clause, title)
    if subject is None:
        return
    yield from _about_subject(clause, rng)
    front = _fronted(clause)
    if front is None:
        return
    for place, group in enumerate(clause.after):
        rest = [each for number, each in enumerate(clause.after) if number != place]
        yield from _about_group(clause, group, rest, subject, front, rng)
    for group in _groups(words, clause.before, clause.root):
        yield from _about_group(clause, group, clause.after, subject, front, rng, fronted=True)


def _clause(words: Sequence[Word]) -> Clause | None:
    roots = [place for place, word in enumerate(words) if word.head == place]
    if len(roots) != 1 or not 6 <= len(words) <= 40 or not words[roots[0]].tag.startswith("VB"):
        return None
    root = roots[0]
    children = [place for place, word in enumerate(words) if word.head == root and place != root]
    subjects = [place for place in children if words[place].dep in _SUBJECTS and place < root]
    if len(subjects) != 1:
        return None
    subject = subtree(words, subjects[0])
    auxiliaries = [place for place in children if words[place].dep in ("aux", "auxpass", "neg") and place < root]
    before = [
        place for child in children if child < subject[0] and words[child].dep in ("prep", "npadvmod") for place in subtree(words, child)
    ]
    after = [_trimmed(words, subtree(words, child)) for child in children if child > root and words[child].dep not in _CUT_OFF]
    return Clause(words, root, subject, auxiliaries, before, [group for group in after if group])


def subtree(words: Sequence[Word], place: int) -> list[int]:
    """The places of a word and of all that hangs on it, in order."""
    found = {place}
    grown = True
    while grown:
        more = {number for number, word in enumerate(words) if word.head in found} - found
        grown = bool(more)
        found |= more
    return sorted(found)


def _trimmed(words: Sequence[Word], group: list[int]) -> list[int]:
    """Up to a comma that begins an aside ("..., which was ..."); lists stay whole."""
    for number, place in enumerate(group):
        word = words[place]
        if word.text in ("(", "[", ";", "\u2013", "\u2014") and number > 0:
            return group[:number]
        if word.text == "," and 0 < number < len(group) - 1 and _aside(words, group[number + 1 :]):
            return group[:number]
    return group


def _aside(words: Sequence[Word], rest: Sequence[int]) -> bool:
    return words[rest[0]].tag in ("WDT", "WP", "WP$", "WRB", "VBG", "VBN", "IN") or words[rest[0]].dep in ("relcl", "acl", "advmod")


def text_of(words: Sequence[Word], places: Sequence[int]) -> str:
    """The words as they stand in the sentence, for neighbours; a blank between words that were apart."""
    pieces: list[str] = []
    for number, place in enumerate(places):
        last = number + 1 == len(places)
        apart = not last and places[number + 1] != place + 1
        pieces.append(words[place].text + (" " if not last and (words[place].space or apart) else ""))
    return "".join(pieces).strip(" ,;:")


def _subject_text(clause: Clause, title: str) -> str | None:
    words = clause.words
    if len(clause.subject) == 1 and words[clause.subject[0]].tag in ("PRP", "DT", "EX", "WDT", "WP"):
        return title if words[clause.subject[0]].text.lower() in _PRONOUNS else None
    return _lowered(words, _trimmed(words, clause.subject))


def _lowered(words: Sequence[Word], places: Sequence[int]) -> str:
    """A phrase's text; what began the sentence loses its capital unless it is a name."""
    text = text_of(words, places)
    first = words[places[0]]
    if places[0] == 0 and first.tag not in ("NNP", "NNPS") and not first.entity and first.text != "I" and text[1:2].islower():
        return text[0].lower() + text[1:]
    return text


def _fronted(clause: Clause) -> tuple[str, str] | None:
    """The auxiliary that goes before the subject, and what is left of the verb."""
    words, root = clause.words, clause.words[clause.root]
    if clause.auxiliaries:
        first, *others = clause.auxiliaries
        if words[first].dep == "neg" or words[first].tag == "TO":
            return None
        return words[first].text.lower(), " ".join(words[place].text for place in (*others, clause.root))
    if root.lemma == "be":
        return root.text.lower(), ""
    auxiliary = {"VBD": "did", "VBZ": "does", "VBP": "do"}.get(root.tag)
    return None if auxiliary is None else (auxiliary, root.lemma)


def _question(*parts: str) -> str:
    line = re.sub(r"\s+([,;:.])", r"\1", " ".join(part for part in parts if part).strip(" ,;:."))
    return line[:1].upper() + line[1:] + "?"


def _made(question: str, answer: str) -> Iterator[Question]:
    if 3 <= len(question.split()) <= LONGEST_QUESTION and 1 <= len(answer.split()) <= LONGEST_ANSWER and len(answer) > 1:
        yield question, (answer,)


def _head_of(words: Sequence[Word], places: Sequence[int]) -> int:
    inside = set(places)
    return next(place for place in places if words[place].head not in inside or words[place].head == place)


def _about_subject(clause: Clause, rng: random.Random) -> Iterator[Question]:
    words = clause.words
    subject = _trimmed(words, clause.subject)
    head = _head_of(words, subject)
    if words[head].tag in ("PRP", "DT", "EX", "WDT", "WP"):
        return
    verb = text_of(words, [*clause.auxiliaries, clause.root])
    rest = [_rest(clause, clause.after, rng), _tail(clause, rng)]
    answer = text_of(words, subject)
    if words[head].entity == "PERSON":
        yield from _made(_question("Who", verb, *rest), answer)
    elif words[head].tag in ("NN", "NNS") and rng.random() < 0.3:
        yield from _made(_question(f"Which {words[head].text}", verb, *rest), answer)
    else:
        asked = (
            "What"
            if words[head].tag in ("NN", "NNS") or words[head].entity in ("WORK_OF_ART", "PRODUCT")
            else rng.choice(("Who or what", "What"))
        )
        yield from _made(_question(asked, verb, *rest), answer)


def _rest(clause: Clause, groups: Sequence[Sequence[int]], rng: random.Random) -> str:
    """What else is said, circumstances left out at times: people ask shorter than they are told."""
    kept = [group for group in groups if clause.words[group[0]].dep != "prep" or rng.random() < KEPT]
    return " ".join(text_of(clause.words, group) for group in kept)


def _tail(clause: Clause, rng: random.Random) -> str:
    """What stood before the subject, said at the end or not at all."""
    return _lowered(clause.words, clause.before) if clause.before and rng.random() < KEPT else ""


def _groups(words: Sequence[Word], places: Sequence[int], root: int) -> list[list[int]]:
    tops = [place for place in places if words[place].head == root]
    return [subtree(words, top) for top in tops]


def _about_group(
    clause: Clause,
    group: list[int],
    rest: Sequence[Sequence[int]],
    subject: str,
    front: tuple[str, str],
    rng: random.Random,
    fronted: bool = False,
) -> Iterator[Question]:
    words = clause.words
    top = _head_of(words, group)
    auxiliary, verb = front
    others = [_rest(clause, rest, rng), "" if fronted else _tail(clause, rng)]
    kind = words[top].dep
    if kind in ("dobj", "attr", "oprd"):
        yield from _about_noun(words, group, top, (auxiliary, subject, verb, *others), rng)
    elif kind in ("prep", "agent", "dative"):
        inner = [place for place in group if place > top]
        if not inner or words[_head_of(words, inner)].dep != "pobj":
            return
        yield from _about_preposition(words, top, inner, (auxiliary, subject, verb, *others), rng)
    elif kind == "npadvmod" and words[top].entity in ("DATE", "TIME"):
        yield from _made(_question("When", auxiliary, subject, verb, *others), text_of(words, group))


def _about_noun(words: Sequence[Word], group: list[int], top: int, said: tuple[str, ...], rng: random.Random) -> Iterator[Question]:
    answer = text_of(words, group)
    numbers = [place for place in group if words[place].dep == "nummod" and words[place].head == top]
    if numbers and words[top].tag == "NNS":
        quantity = [place for number in numbers for place in subtree(words, number)]
        rest = [place for place in group if place not in quantity]
        yield from _made(_question("How many", text_of(words, rest), *said), text_of(words, quantity))
    who = words[top].entity == "PERSON"
    yield from _made(_question("Whom" if who and rng.random() < 0.3 else "Who" if who else "What", *said), answer)


def _about_preposition(words: Sequence[Word], top: int, inner: list[int], said: tuple[str, ...], rng: random.Random) -> Iterator[Question]:
    preposition = words[top].text.lower()
    inner = _trimmed(words, inner)
    head = _head_of(words, inner)
    answer, entity = text_of(words, inner), words[head].entity
    if entity == "DATE" and preposition in ("in", "on", "during", "at"):
        year = re.fullmatch(r"\d{4}", answer) is not None
        asked = (
            rng.choice(("When", "In which year", "In what year", "What year"))
            if year
            else rng.choice(("When", "On what date" if preposition == "on" else "When"))
        )
        yield from _made(_question(asked, *said), answer)
    elif entity in PLACES and preposition in ("in", "at", "on", "near"):
        yield from _made(_question(rng.choice(("Where", f"{preposition} what place", "Where")), *said), answer)
    elif entity == "PERSON":
        asked = rng.choice((f"{preposition} whom", "Who"))
        yield from _made(_question(asked, *said, *(() if asked != "Who" else (preposition,))), answer)
    elif rng.random() < 0.5:
        yield from _made(_question(f"{preposition} what", *said), answer)
    else:
        yield from _made(_question("What", *said, preposition), answer)


def _named(words: Sequence[Word]) -> Iterator[Question]:
    """A relative clause asks for what it is about: "a chemist who found radium in 1898" -> "Who found radium in 1898?"."""
    for place, word in enumerate(words):
        if word.dep != "relcl" or word.head >= place:
            continue
        clause = subtree(words, place)
        if (
            words[clause[0]].tag not in ("WDT", "WP")
            or words[words[clause[0]].head].dep != "relcl"
            or words[clause[0]].dep not in _SUBJECTS
        ):
            continue
        noun = word.head
        phrase = [each for each in subtree(words, noun) if each < clause[0] and words[each].text not in (",", "(")]
        if not phrase or words[noun].tag not in ("NN", "NNS", "NNP", "NNPS"):
            continue
        kind = words[noun].text if words[noun].tag in ("NN", "NNS") else ""
        asked = "Who" if words[clause[0]].text.lower() == "who" else f"Which {kind}" if kind else "What"
        yield from _made(_question(asked, text_of(words, _trimmed(words, clause[1:]))), text_of(words, phrase))
