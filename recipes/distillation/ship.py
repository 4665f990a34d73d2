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
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model


@command()
def main(
    model: Annotated[str, "model file of a run"],
    name: Annotated[str, "by which it will be known"],
    /,
    *,
    root: Annotated[Path, "folder of the project"] = ROOT,
) -> Path:
    """Ship a trained student."""
    student = load_model(model)
    student.metadata |= {"name": name, "licence": "MIT", "card": f"pretrained/{name}.md"}
    out = root / "pretrained" / f"{name}.safetensors"
    save_model(student, out, half=True)
    return out


if __name__ == "__main__":
    raise SystemExit(main())
