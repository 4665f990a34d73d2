"""Every variant of the ablation trains, and differs from the baseline in what its name says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import weakaudio_data_prep.soundscapes
from tiny import TINY as TINIEST

from recipes import results
from recipes.soundscapes import ablation
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import evaluate
from weakaudio.networks.layers import ConvNorm
from weakaudio.pretrained.checkpoint import read_header
from weakaudio.pretrained.registry import load_model

TINY = ["--model.network_config.width=0.0625", *TINIEST[1:]]  # the width alone: variants set the pooling as well


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six backgrounds."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "backgrounds").mkdir()
    for n in range(6):
        noise = 0.1 * np.random.default_rng(n).standard_normal(16000)
        sf.write(folder / "backgrounds" / f"{n}.wav", noise, 16000)
    return folder


@pytest.fixture(scope="module")
def corpus(event_clips: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    weakaudio_data_prep.soundscapes.prepare(str(event_clips), str(out), str(data / "backgrounds"), 16, 8, 8)
    return out


@pytest.fixture(scope="module")
def given(data: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ablation.materials(data, tmp_path_factory.mktemp("ablation"), corpus, TINY)


def test_ambiences_of_the_test_are_not_trained_with(given: dict[str, Path], corpus: Path) -> None:
    used = json.loads((corpus / weakaudio_data_prep.soundscapes.SETTINGS).read_text())["backgrounds"]
    assert {path.name for path in given["ambiences"].iterdir()} == set(used["train"])
    assert not set(used["train"]) & {*used["val"], *used["test"]}


def test_a_room_decays_by_60_db(given: dict[str, Path]) -> None:
    room, rate = sf.read(sorted(given["rooms"].iterdir())[-1])
    tail = room[1:]
    power = [np.mean(tail[part] ** 2) for part in (slice(0, rate // 50), slice(-rate // 50, None))]
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(60, abs=4)


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_every_variant_trains(name: str, given: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    path = ablation.train_variant(name, 2, tmp_path, corpus, given, TINY if "flash" not in name else TINIEST[1:])
    header = read_header(path)
    pooling = dict(option.split("=") for option in ablation.VARIANTS[name]).get("--model.network_config.pooling")
    assert header["config"].get("pooling", "mean") == (pooling or "mean")
    network = load_model(path).network
    norms = torch.cat([x.conv.weight.flatten(1).norm(dim=1) for x in network.modules() if isinstance(x, ConvNorm)])
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5) == ("weight normalisation" in name)
    found = list(ablation.rows(name, [evaluate(load_model(path), Corpus(corpus))]))
    assert {row["metric"] for row in found} == {"mAP", "lwlrap", "segment F1, macro"}


def test_rows_can_be_recorded(given: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    models = [
        load_model(ablation.train_variant(ablation.BASE, seed, tmp_path, corpus, given, TINY)) for seed in (1, 2)
    ]
    found = ablation.rows(ablation.BASE, [evaluate(model, Corpus(corpus)) for model in models])
    (tmp_path / "project" / "recipes" / "soundscapes").mkdir(parents=True)
    results.record("soundscapes", [{**row, "command": "none"} for row in found], tmp_path / "project")
    assert "(n=2)" in results.table("soundscapes", "ablation", tmp_path / "project")
