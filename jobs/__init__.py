"""What a person or `ray job submit` starts.

`python -m jobs.X` puts the working directory in front of everything, where a user's own folder `model` or `pipeline` would be taken for
this distribution's; so it goes to the end.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_FIRST = sys.path[0] if sys.path else ""
if (not _FIRST or Path(_FIRST).resolve() == Path.cwd()) and Path.cwd() != _ROOT:
    sys.path.append(sys.path.pop(0))
