"""Put a trained student among the models that come with the package.

    python -m recipes.distillation.ship runs/distillation/base/model.safetensors weakaudio-base

Writes `pretrained/NAME.safetensors` with its weights in float16. `pretrained/registry.toml` and the model's card,
`pretrained/NAME.md`, are written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from recipes.command import command
from recipes.results import ROOT
from weakaudio.pretrained import load_model, save_model


def ship(path: str | Path, name: str, root: Path = ROOT) -> Path:
    """Write a student as `pretrained/NAME.safetensors`; returns the path."""
    model = load_model(path)
    model.metadata |= {"name": name, "licence": "MIT", "card": f"pretrained/{name}.md"}
    out = root / "pretrained" / f"{name}.safetensors"
    save_model(model, out, half=True)
    return out


@command()
def main(
    model: Annotated[str, "model file of a run"],
    name: Annotated[str, "by which it will be known"],
    /,
) -> None:
    """Ship a trained student."""
    out = ship(model, name)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    raise SystemExit(main())
