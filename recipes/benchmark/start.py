"""How long it takes until something happens: importing the package, and the command line's first answers."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from recipes.results import Row

WHAT = "start"
_MAIN = "from weakaudio.cli import main; main()"
WAYS = {
    "python (reference)": ["-c", "pass"],
    "import weakaudio": ["-c", "import weakaudio"],
    "weakaudio --help": ["-c", _MAIN, "--help"],
    "weakaudio models": ["-c", _MAIN, "models"],
    "import torch (for comparison)": ["-c", "import torch"],
}


def measure(rounds: int) -> list[Row]:
    """Rows for `recipes.results` but for the command: seconds of a fresh process, the median of some rounds."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        for way, arguments in WAYS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            taken[way].append(time.perf_counter() - begun)
    return [
        {
            "what": WHAT,
            "system": way,
            "metric": "s",
            "value": float(np.median(seconds[1:])),  # the first round warms the disk's cache
            "n": rounds,
            "data": "a fresh process",
        }
        for way, seconds in taken.items()
    ]
