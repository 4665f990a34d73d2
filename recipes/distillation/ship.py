"""Put a trained student among the models that come with the package.

    python -m recipes.distillation.ship runs/distillation/base/model.safetensors weakaudio-base

Writes `pretrained/NAME.safetensors` with its weights in float16. `pretrained/registry.toml` and the model's card,
`pretrained/NAME.md`, are written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.results import ROOT
from weakaudio.errors import WeakAudioError
from weakaudio.pretrained import load_model, save_model

_LICENCE = "MIT"


def ship(path: str | Path, name: str, root: Path = ROOT) -> Path:
    """Write a student as `pretrained/NAME.safetensors`; returns the path."""
    model = load_model(path)
    model.metadata |= {"name": name, "licence": _LICENCE, "card": f"pretrained/{name}.md"}
    out = root / "pretrained" / f"{name}.safetensors"
    save_model(model, out, half=True)
    return out


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m recipes.distillation.ship", description="Ship a trained student.")
    parser.add_argument("model", help="model file of a run")
    parser.add_argument("name", help="by which it will be known")
    given = parser.parse_args(args)
    out = ship(given.model, given.name)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"ship: {error}")
