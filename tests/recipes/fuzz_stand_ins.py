"""Checks that stand in for those of the fuzz recipe, in worker processes: they misbehave on purpose."""

from __future__ import annotations

import os
import time
from pathlib import Path

from recipes.fuzz.watch import WrongError

FAULTS = {"crash": "crash", "sleep": "hang", "raise": "exception", "fill": "exception", "lie": "wrong"}
"""What damaged files of each kind come to"""


def misbehave(kind: str, path: Path, _seed: Path, changes: tuple[str, ...]) -> str:
    """Reads whole files; does to damaged ones what their kind says."""
    assert path.is_file()
    if not changes:
        return "read"
    if kind == "crash":
        os.abort()
    if kind == "sleep":
        time.sleep(60)
    if kind == "raise":
        raise KeyError("thirteen")
    if kind == "fill":
        bytearray(2**40)
    if kind == "lie":
        raise WrongError("altered")
    return "refused"


def die(_kind: str, _path: Path, _seed: Path, _changes: tuple[str, ...]) -> str:
    """Ends the process."""
    os._exit(3)
