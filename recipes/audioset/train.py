"""Train on AudioSet: `weakaudio train` under a name that can be found beside its settings.

python -m recipes.audioset.train --config recipes/audioset/balanced_weak.yaml --data.root CORPUS --out FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from weakaudio.errors import WeakAudioError
from weakaudio.training.command import train


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        print(f"trained: {train(list(sys.argv[1:] if args is None else args))}")
    except WeakAudioError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
