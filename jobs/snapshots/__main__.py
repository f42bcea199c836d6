from __future__ import annotations

from jobs.command import start
from jobs.snapshots import app

if __name__ == "__main__":
    start(app)
