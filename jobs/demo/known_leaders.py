"""Leaders whom a model from before July 2024 may know although the 2025 edition dates their office later, and why.

Keys are the entry's code and the name's part in capitals (or the whole name). The demo asks nothing about them, because a right answer
would prove no memory. The 2015 edition tells of some of them, but it is not there at run time.
"""

from __future__ import annotations

from collections.abc import Mapping

HELD_BEFORE = "held this office before"
LED_BEFORE = "led the country before, under another title or as its interim head"
ELECTED_BEFORE = "was elected before July 2024, and took office after"
NAMESAKE = "bears the surname of an earlier holder"

KNOWN_LEADERS: Mapping[tuple[str, str], str] = {
    ("aa", "EMAN"): HELD_BEFORE,
    ("aq", "TRUMP"): HELD_BEFORE,
    ("cq", "TRUMP"): HELD_BEFORE,
    ("ei", "MARTIN"): HELD_BEFORE,
    ("ez", "BABIS"): HELD_BEFORE,
    ("gb", "OLIGUI"): LED_BEFORE,
    ("gh", "MAHAMA"): HELD_BEFORE,
    ("gq", "TRUMP"): HELD_BEFORE,
    ("gv", "DOUMBOUYA"): LED_BEFORE,
    ("ic", "TOMASDOTTIR"): ELECTED_BEFORE,
    ("id", "PRABOWO"): ELECTED_BEFORE,
    ("iv", "OUATTARA"): HELD_BEFORE,
    ("kv", "KURTI"): HELD_BEFORE,
    ("le", "AOUN"): NAMESAKE,
    ("le", "SALAM"): NAMESAKE,
    ("mi", "MUTHARIKA"): HELD_BEFORE,
    ("ml", "MAIGA"): HELD_BEFORE,
    ("mp", "RAMGOOLAM"): HELD_BEFORE,
    ("mx", "SHEINBAUM"): ELECTED_BEFORE,
    ("bm", "MIN AUNG HLAING"): LED_BEFORE,
    ("nl", "SCHOOF"): ELECTED_BEFORE,
    ("pc", "CHRISTIAN"): HELD_BEFORE,
    ("pm", "MULINO"): ELECTED_BEFORE,
    ("rq", "TRUMP"): HELD_BEFORE,
    ("sz", "PARMELIN"): HELD_BEFORE,
    ("td", "PERSAD-BISSESSAR"): HELD_BEFORE,
    ("to", "GNASSINGBE"): LED_BEFORE,
    ("us", "TRUMP"): HELD_BEFORE,
    ("uv", "OUEDRAOGO"): NAMESAKE,
    ("vq", "TRUMP"): HELD_BEFORE,
}
