"""What a person or `ray job submit` starts.

The working directory often stands in front of everything (`python -m`, PYTHONPATH of a job), and a folder `model` or `pipeline` in it
would be taken for this distribution's. So whatever holds one of those names without being ours goes to the end of the path.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_NAMES = ("actors", "model", "pipeline")


def _hides_ours(entry: str) -> bool:
    folder = Path(entry or ".").resolve()
    return folder != _ROOT and any((folder / name).is_dir() or (folder / f"{name}.py").is_file() for name in _NAMES)


sys.path.sort(key=_hides_ours)  # stable: the others keep their order
