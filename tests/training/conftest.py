from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from training_runs import SEEDS, arguments, epochs

from weakaudio.data.corpus import EVENTS, LABELS, MANIFEST, STORE
from weakaudio.data.store import StoreWriter
from weakaudio.training.fit import train

RATE = 16000
# Names that a library for scores might take for something else.
TONES = {"onset": 500.0, "macro_average": 3000.0}


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 36 clips of 1 to 4 s at 16 kHz, tones of two classes in noise, with strong truth.

    12 clips in each of train, val and test; of every four, two hold one class, one both and one nothing.
    """
    root = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    clips, events = [], []
    with StoreWriter(root / STORE, RATE) as writer:
        for n in range(36):
            split, path = ("train", "val", "test")[n // 12], f"{n}.wav"
            labels = [["onset"], ["macro_average"], list(TONES), []][n % 4]
            time = np.arange(int(rng.integers(RATE, 4 * RATE))) / RATE
            audio = 0.01 * rng.standard_normal(len(time))
            for label in labels:
                begin, end = sorted(rng.uniform(0, time[-1], 2))
                audio += 0.1 * np.sin(2 * np.pi * TONES[label] * time) * ((time >= begin) & (time < end))
                events.append({"path": path, "label": label, "onset": begin, "offset": end})
            writer.add(path, audio.astype(np.float32), labels)
            clips.append({"path": path, "labels": ";".join(labels), "split": split})
    (root / LABELS).write_text("".join(f"{name}\n" for name in TONES))
    pd.DataFrame(clips).to_csv(root / MANIFEST, index=False)
    pd.DataFrame(events).to_csv(root / EVENTS, index=False)
    return root


@pytest.fixture(scope="session")
def run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    for seed in range(20):  # until the second epoch is the best: it can be told from the last
        out = tmp_path_factory.mktemp("runs") / "undisturbed"
        assert train(arguments(tones, out, seed=seed)) == out / "model.safetensors"
        if int(epochs(out)["val_mAP"].idxmax()) == 1:
            SEEDS.append(seed)
            return out
    raise AssertionError("no seed of 20 has its best epoch in the middle")
