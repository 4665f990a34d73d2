"""Train on AudioSet: `weakaudio train` under a name that can be found beside its settings.

python -m recipes.audioset.train --config recipes/audioset/balanced_weak.yaml --data.root CORPUS --out FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from weakaudio.errors import WeakAudioError
from weakaudio.training.fit import train


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        path = train(list(sys.argv[1:] if args is None else args))
    except WeakAudioError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if not getattr(rank_zero_only, "rank", 0):  # with several devices, each is a process
        print(f"trained: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
