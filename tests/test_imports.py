"""Imports go one way, and importing the package does nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import weakaudio

PACKAGE = Path(weakaudio.__file__).parent
FLOORS = {  # a room may import rooms of lower floors, and itself
    "errors": 0,
    "memory": 0,
    "progress": 0,
    "settings": 0,
    "files": 1,
    "audio": 2,
    "data": 3,
    "networks": 3,
    "formats": 4,
    "pretrained": 4,
    "evaluation": 5,
    "training": 6,
    "inference": 7,
    "batch": 8,
    "reports": 9,
    "transfer": 10,
    "deploy": 10,
    "nas": 11,
    "cli": 12,
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(source: str, package: str = "weakaudio") -> set[str]:
    """Dotted names of all that a module of `package` imports, inside functions and TYPE_CHECKING, too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_of(path: Path) -> set[str]:
    package = ".".join(("weakaudio", *path.relative_to(PACKAGE).parent.parts))
    return imported(path.read_text(encoding="utf-8"), package)


def room(name: str) -> str | None:
    """The room of an imported name of this package; a public name of `weakaudio` counts where it lives."""
    parts = name.split(".")
    if len(parts) == 1 or parts[1] in ("__version__", "*"):
        return None
    return weakaudio._HOME.get(parts[1], name).split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_import_only_rooms_below_them(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in FLOORS, f"{own} is a new room: give it a floor"
    rooms = {room(name) for name in imports_of(path) if name.split(".")[0] == "weakaudio"} - {None, own}
    assert {other for other in rooms if FLOORS[other] >= FLOORS[own]} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_library_imports_neither_recipes_nor_data_prep_nor_tests(path: Path) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & {"weakaudio_data_prep", "recipes", "tests"} == set()


def test_imports_are_found_wherever_they_hide() -> None:
    source = "def f():\n    from weakaudio.cli import main\n    import weakaudio_data_prep.esc50\n"
    source += "from ..data import store\n"
    names = imported(source, "weakaudio.audio")
    assert names == {"weakaudio.cli.main", "weakaudio_data_prep.esc50", "weakaudio.data.store"}
    assert room("weakaudio.cli.main") == "cli"
    assert room("weakaudio.TaggingModule") == "training"
    assert room("weakaudio.__version__") is None


def test_importing_the_package_loads_little_prints_nothing_and_writes_nothing(tmp_path: Path) -> None:
    heavy = {"torch", "torchaudio", "numpy", "scipy", "librosa", "lightning", "pandas", "h5py"}
    code = f"import sys, weakaudio; sys.exit(' '.join({heavy} & set(sys.modules)))"
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == ""
    assert run.stderr.strip() == ""  # the modules that were loaded
    assert list(tmp_path.iterdir()) == []


def test_embedding_and_detection_do_not_wait_for_what_only_training_needs() -> None:
    heavy = {"lightning", "torchmetrics", "sed_scores_eval", "sklearn", "matplotlib", "audiomentations"}
    heavy |= {"torchaudio", "librosa", "numba"}
    code = (
        "import sys, weakaudio.inference.detector, weakaudio.batch.embed\n"
        f"sys.exit(' '.join({heavy} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""  # the modules that were loaded


def test_detect_and_embed_need_no_torchaudio(tmp_path: Path) -> None:
    """It may be absent, or built for another torch than the one installed."""
    sf.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(48000), 32000)
    code = (
        "import sys\n"
        "sys.modules['torchaudio'] = None\n"
        "from weakaudio import load_model\n"
        "from weakaudio.cli import main\n"
        "assert load_model('weakaudio-fast').front_end.mel_scale == 'kaldi'\n"
        "for verb, out in (('detect', 'events.csv'), ('embed', 'embeddings.npz')):\n"
        "    sys.argv = ['weakaudio', verb, 'noise.wav', '-o', out, '--model', 'weakaudio-fast', '--device', 'cpu']\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, verb\n"
        "assert sys.modules['torchaudio'] is None\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert {"events.csv", "embeddings.npz"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", weakaudio.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(weakaudio, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        weakaudio.no_such_name  # noqa: B018
