"""The corpora of the tables, and which networks have heard what of them before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from weakaudio_data_prep import esc50, scenes_synthetic, urbansound8k

from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest

_WEAK = "weak-20"  # N_S, trained by recipes/soundscapes


@dataclass(frozen=True)
class Corpus:
    """A data set with folds, and one class a clip."""

    name: str
    data: str
    """as it stands under the table"""
    prepare: Callable[[Path, Path], Path]
    """of the folder of data and one to work in: the corpus' folder"""
    front_end: str
    """of the log-mel statistics"""
    untrained: tuple[str, ...]
    """networks with random weights, by name"""
    new_fold: int | None = None
    """that no network has heard, where others were heard"""
    heard: dict[str, str] = field(default_factory=dict)
    """what of it the network of a name has heard in training"""

    def read(self, data: Path, work: Path) -> Manifest:
        """The manifest, written anew."""
        return read_manifest(self.prepare(data, work) / MANIFEST)


def _esc(folder: str) -> Callable[[Path, Path], Path]:
    def prepare(data: Path, work: Path) -> Path:
        esc50.prepare(str(data / folder), str(work / folder))
        return work / folder

    return prepare


def _urban(data: Path, work: Path) -> Path:
    folder = work / "urbansound8k"
    urbansound8k.prepare(str(data / "urbansound8k"), str(folder))
    return folder


def _scenes(data: Path, work: Path) -> Path:
    events, urban, scenes = _esc("esc50-16k")(data, work), work / "urban-foreground", work / "scenes"
    urbansound8k.prepare(str(data / "urbansound8k"), str(urban), foreground_only=True)
    scenes_synthetic.prepare(
        str(scenes), esc50=str(events), urbansound8k=str(urban), backgrounds=str(data / "backgrounds")
    )
    return scenes


_SEEN = (
    "weak-20 was trained on soundscapes made of folds 1 to 3, with their labels, and its epoch chosen on fold 4: "
    "only fold 5 is new to it"
)
CORPORA = (
    Corpus("ESC-50", "ESC-50 at 16 kHz", _esc("esc50-16k"), "16k", ("untrained-16k",), 5, {_WEAK: _SEEN}),
    Corpus(
        "ESC-10",
        "ESC-10 at 44.1 kHz",
        _esc("esc10-44k"),
        "paper-44k",
        ("untrained-16k", "untrained-44k"),
        5,
        {_WEAK: _SEEN},
    ),
    Corpus(
        "UrbanSound8K",
        "folds 1 and 2 of UrbanSound8K, 1,761 slices: not its official ten folds",
        _urban,
        "16k",
        ("untrained-16k",),
        None,
        {_WEAK: "weak-20 was trained on soundscapes made of fold 1, with its labels, and its epoch chosen by fold 2"},
    ),
    Corpus(
        "synthetic scenes",
        "1,000 synthetic clips of ten scenes, 10 s at 16 kHz, of `weakaudio prepare scenes-synthetic`",
        _scenes,
        "16k",
        ("untrained-16k",),
        None,
        {
            _WEAK: "weak-20 has heard most of the events and some of the ambiences, under names of events",
            "weakaudio-base": "weakaudio-base has heard the ambiences, without names",
        },
    ),
)
