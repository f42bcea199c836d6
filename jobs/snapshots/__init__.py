"""`python -m jobs.snapshots`: what is saved of a stream (`looking`), and which of it is kept or gone on from (`changing`).

Needs neither Ray nor Kafka nor the model, and is safe beside a running writer.
"""

from __future__ import annotations

import typer

from jobs.snapshots import changing, looking

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="What is saved of a stream: list, show, verify, compare, pin, restore, collect."
)
for _name, _command in (
    ("list", looking.list_),
    ("show", looking.show),
    ("verify", looking.verify),
    ("diff", looking.diff),
    ("pin", changing.pin),
    ("unpin", changing.unpin),
    ("restore", changing.restore),
    ("gc", changing.gc),
):
    app.command(_name)(_command)
