"""Questions that no document tells: general knowledge, instructions, small talk. What is remembered must leave them alone.

A line of `texts/general.txt` is a question; `{country}` and the like are filled in at random.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from jobs.corpora.examples import Split, split_of

_LINES = (Path(__file__).parent / "texts" / "general.txt").read_text(encoding="utf-8").splitlines()
_SLOT = re.compile(r"\{(\w+)\}")
_FILLED_TIMES = 8
_WORDS: dict[str, list[str]] = {
    name: [each.strip() for each in text.split("|")]
    for name, text in {
        "country": "France|Germany|Italy|Brazil|India|China|Egypt|Kenya|Canada|Mexico|Norway|Poland|Greece|Turkey|Japan|Spain|Peru|Chile",
        "word": "house|river|happy|quickly|freedom|butterfly|ancient|to run|bread|lonely|good morning|brave|window|curious",
        "thing": "rain|chess|photosynthesis|the moon|coffee|democracy|yoga|black holes|bicycles|the internet|spring|volcanoes|jazz"
        "|vaccines|electricity|chocolate|the Roman Empire|dinosaurs|recycling|the steam engine|paper|glass|football",
        "number": "7|12|17|23|36|48|51|64|81|97|144|256",
        "book": "Hamlet|Don Quixote|Moby-Dick|Pride and Prejudice|1984|War and Peace|The Odyssey|The Little Prince|Frankenstein|Dracula",
        "person": "Albert Einstein|Marie Curie|Mozart|Leonardo da Vinci|Isaac Newton|Nelson Mandela|Gandhi|Charles Darwin|Ada Lovelace"
        "|Abraham Lincoln|Julius Caesar|Vincent van Gogh|Jane Austen|Beethoven|Aristotle",
        "task": "reverse a list|read a file|sort numbers|parse JSON|download a page|count words|find duplicates|print the date",
        "chore": "boil rice|clean a window|paint a wall|plant tomatoes|fix a flat tyre|wash a wool sweater|train a puppy|make soap",
    }.items()
}


def general_questions(split: Split, seed: int = 0) -> list[str]:
    """All questions of a split; a line with blanks comes several times, filled differently."""
    rng = random.Random(f"general/{seed}")
    own = [line.strip() for line in _LINES if line.strip() and split_of(f"general/{line}", 0.2) is split]
    return [_SLOT.sub(lambda match: rng.choice(_WORDS[match[1]]), line) for line in own for _ in range(_FILLED_TIMES if "{" in line else 1)]
