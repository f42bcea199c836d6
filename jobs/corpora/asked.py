"""`asked`: encyclopaedia summaries with questions written for each of them.

A line of `texts/asked.jsonl` is `{title, questions: [[question, answer], ...]}`; an answer stands in its summary word for word. The
summaries are other people's (CC BY-SA) and are fetched; only titles, questions and the few words of each answer stand here. What comes
out are paragraphs as SQuAD has them, so whoever reads those reads these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ASKED = Path(__file__).parent / "texts" / "asked.jsonl"


def asked_paragraphs(summaries: Sequence[Mapping[str, Any]], path: Path = ASKED) -> list[Mapping[str, Any]]:
    """`{title, text, questions: [{question, answers}]}` of each summary that was asked about, without answers that it does not hold."""
    texts = {str(each["title"]): " ".join(str(each["extract"]).split()) for each in summaries}
    found: list[Mapping[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = texts.get(row["title"], "")
        questions = [{"question": question, "answers": [answer]} for question, answer in row["questions"] if answer in text]
        if questions:
            found.append({"title": row["title"], "text": text, "questions": questions})
    return found
