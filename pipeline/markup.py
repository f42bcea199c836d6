"""Text out of markup: what a reader of the page would read (`decode.html: strip`)."""

from __future__ import annotations

import html
import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser

MOST_TAGS: Final = 20_000
"""An article has some hundreds. Parsing nested ones takes time with their square."""

_UNSEEN: Final = ["script", "style", "template", "noscript", "iframe", "svg", "object", "head"]
_BLOCKS: Final = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol"
        " p pre section table td th tr ul br",
    )
)
_TAG: Final = re.compile(r"<[A-Za-z!/?]")
_BREAK: Final = "\x1e"
_ENDS: Final = re.compile(r"</(?:" + "|".join(sorted(_BLOCKS)) + r")\s*>|<br\s*/?>|<hr\s*/?>", re.IGNORECASE)


class TooMuchMarkup(ValueError):
    """More tags than an article can have."""


def plain_text(markup: str) -> str:
    """The text of an HTML fragment, entities resolved, a line for each block; text without tags keeps its lines.

    Raises TooMuchMarkup.

    >>> plain_text("<p>Fish &amp; <b>chips</b>,<br>&pound;9</p><script>x()</script><p>a < b</p>Tail")
    'Fish & chips,\\n£9\\na < b\\nTail'
    """
    if not _TAG.search(markup):
        return html.unescape(markup)
    if markup.count("<") > MOST_TAGS:
        raise TooMuchMarkup(f"more than {MOST_TAGS} tags")
    tree = LexborHTMLParser(_ENDS.sub(_BREAK + r"\g<0>", markup))
    tree.strip_tags(_UNSEEN)
    pieces = []
    for node in tree.root.traverse(include_text=True) if tree.root is not None else ():
        if node.tag in _BLOCKS:
            pieces.append(_BREAK)
        elif node.tag == "-text":
            pieces.append(node.text_content or "")
    lines = (" ".join(line.split()) for line in "".join(pieces).split(_BREAK))
    return "\n".join(line for line in lines if line)
