"""The corpora of the tables, and what networks were trained on of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weakaudio_data_prep import scenes_synthetic, urbansound8k

from recipes import esc50
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Corpus:
    """A data set with folds and one class per clip."""

    name: str
    data: str
    """description under the table"""
    read: Callable[[Path, Path], Manifest]
    """prepares it from the folder of data in a folder to work in"""
    trained_on: dict[str, str]
    """what the network of a name was trained on"""
    unseen_fold: int | None = None
    """fold that no network was trained on, where others were"""
    front_end: str = "16k"
    """of the log-mel statistics"""
    untrained: tuple[str, ...] = ("untrained-16k",)
    """networks with random weights, by name"""


def _esc(name: str) -> Callable[[Path, Path], Manifest]:
    return lambda data, work: esc50.prepared(data / name, work / name)


def _urban(data: Path, work: Path) -> Manifest:
    urbansound8k.prepare(str(data / "urbansound8k"), str(work / "urbansound8k"))
    return read_manifest(work / "urbansound8k" / MANIFEST)


def _scenes(data: Path, work: Path) -> Manifest:
    events, urban, scenes = work / "esc50-16k", work / "urban-foreground", work / "scenes"
    esc50.prepared(data / "esc50-16k", events)
    urbansound8k.prepare(str(data / "urbansound8k"), str(urban), foreground_only=True)
    backgrounds = str(data / "backgrounds")
    scenes_synthetic.prepare(str(scenes), esc50=str(events), urbansound8k=str(urban), backgrounds=backgrounds)
    return read_manifest(scenes / MANIFEST)


_FOLDS = (
    "weak-20 was trained on soundscapes made of folds 1 to 3, with their labels, and the epoch was chosen on fold 4"
)
_SEEN = {"weak-20": f"{_FOLDS}: only fold 5 is unseen"}
_FOLD_1 = "weak-20 was trained on soundscapes made of fold 1, with its labels, and the epoch was chosen on fold 2"
_SCENES = {
    "weak-20": "weak-20 was trained on most of the events and some of the ambiences, with event labels",
    "weakaudio-base": "weakaudio-base was trained on the ambiences, without labels",
}
_SLICES = "folds 1 and 2 of UrbanSound8K, 1,761 slices: not its official ten folds"
_MADE = "1,000 synthetic clips of ten scenes, 10 s at 16 kHz, of `weakaudio prepare scenes-synthetic`"
_BOTH = ("untrained-16k", "untrained-44k")
CORPORA = (
    Corpus("ESC-50", "ESC-50 at 16 kHz", _esc("esc50-16k"), _SEEN, 5),
    Corpus("ESC-10", "ESC-10 at 44.1 kHz", _esc("esc10-44k"), _SEEN, 5, "paper-44k", _BOTH),
    Corpus("UrbanSound8K", _SLICES, _urban, {"weak-20": _FOLD_1}),
    Corpus("synthetic scenes", _MADE, _scenes, _SCENES),
)
