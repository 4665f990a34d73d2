"""EfficientAT's published mn04 names what is in real recordings, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from weakaudio.audio.io import read_audio
from weakaudio.networks import Output
from weakaudio.networks.model import Model
from weakaudio.pretrained.converters import convert, read_class_list

pytestmark = pytest.mark.real

# What AudioSet calls some classes of ESC-50.
NAMES = {
    "dog": {"Animal", "Dog", "Bark"},
    "cat": {"Cat"},
    "rooster": {"Chicken, rooster", "Crowing, cock-a-doodle-doo"},
    "rain": {"Rain", "Rain on surface"},
    "thunderstorm": {"Thunder", "Thunderstorm"},
    "church_bells": {"Church bell", "Change ringing (campanology)"},
    "train": {"Train"},
}


@pytest.fixture(scope="module")
def mn04(real_data: Path) -> Model:
    path = real_data.parent / "weights" / "mn04_as_mAP_432.pt"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the real recordings")
    return convert("efficientat", path, read_class_list(real_data / "audioset" / "class_labels_indices.csv"))


@pytest.fixture(scope="module")
def clips(real_data: Path) -> Callable[[str], list[np.ndarray]]:
    """The first four clips of a class of ESC-50, at 32 kHz."""
    table = pd.read_csv(real_data / "esc50-16k" / "esc50.csv")

    def read(category: str) -> list[np.ndarray]:
        names = table["filename"][table["category"] == category].head(4)
        folder = real_data / "esc50-16k" / "audio"
        return [read_audio(next(folder.glob(f"{Path(name).stem}.*")), 32000)[0] for name in names]

    return read


def listen(model: Model, audio: np.ndarray) -> Output:
    with torch.no_grad():
        output: Output = model(torch.from_numpy(audio)[None])
    return output


@pytest.mark.parametrize("category", NAMES)
def test_the_most_likely_class_is_what_is_heard(
    mn04: Model, clips: Callable[[str], list[np.ndarray]], category: str
) -> None:
    heard = [mn04.labels[int(listen(mn04, audio).clip_probs.argmax())] for audio in clips(category)]
    assert set(heard) <= NAMES[category], heard


def test_segments_say_when(mn04: Model, clips: Callable[[str], list[np.ndarray]]) -> None:
    """A cat for five seconds, then rain for five."""
    audio = np.concatenate([clips("cat")[0], clips("rain")[0]])
    probs = listen(mn04, audio).segment_logits[0].sigmoid()
    times = mn04.segment_times(len(audio))
    assert (times[0, 0], times[-1, 1]) == (0, 10)
    early, late = (probs[torch.from_numpy(when)].mean(0) for when in (times[:, 1] < 4.8, times[:, 0] > 5.2))
    assert mn04.labels[int(early.argmax())] in {"Cat", "Animal", "Domestic animals, pets"}
    assert mn04.labels[int(late.argmax())] in NAMES["rain"]
    cat, rain = mn04.labels.index("Cat"), mn04.labels.index("Rain")
    assert early[cat] > 5 * late[cat]
    assert late[rain] > 5 * early[rain]
