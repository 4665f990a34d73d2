"""The recipe on tiny networks and a few sounds: what it writes, and that a run resumes as if it had not stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from weakaudio_data_prep.unlabelled import prepare

from recipes.distillation import ship
from recipes.distillation.train import CONFIG, _find_precision, train
from weakaudio.errors import ProtocolError
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum, save_model
from weakaudio.pretrained.registry import load_model

STAGES = [["dense", 1, 4], ["dense", 0, 8], ["dense", 0, 8], ["dense", 0, 16]]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, randomise: Callable[[Network], Network]) -> dict[str, Any]:
    import soundfile as sf

    root = tmp_path_factory.mktemp("distillation")
    rng = np.random.default_rng(0)
    (root / "sounds").mkdir()
    for n in range(12):
        sf.write(root / "sounds" / f"{n}.wav", 0.1 * rng.standard_normal(16000).clip(-3, 3), 32000)
    prepare(str(root / "sounds"), str(root / "corpus"), 32000, held_out=0.3)
    network = randomise(build_network("mobilenet", n_classes=3, width=0.1))
    save_model(Model(network, "efficientat-32k", ["dog", "rain", "saw"]), root / "teacher.safetensors")
    return {
        "teacher": str(root / "teacher.safetensors"),
        "corpora": {str(root / "corpus"): 1.0},
        "network": "flash",
        "network_config": {"stages": STAGES, "n_features": 8},
        "seconds": 1.0,
        "batch_size": 2,
        "epoch_steps": 3,
        "warmup": 2,
        "precision": "32-true",
        "workers": 0,
        "accelerator": "cpu",
    }


def test_a_run_leaves_a_model_and_a_table_and_resumes_as_if_it_had_not_stopped(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    whole = train(str(tmp_path / "whole"), epochs=3, cooldown=1, **arguments)
    parts = train(str(tmp_path / "parts"), epochs=2, **arguments)
    assert len(pd.read_csv(parts.parent / "metrics.csv")) == 2
    assert train(str(tmp_path / "parts"), epochs=3, cooldown=1, **arguments) == parts
    tables = [pd.read_csv(path.parent / "metrics.csv").drop(columns="seconds") for path in (whole, parts)]
    # The weights are those of the whole run to the bit; validation rounds as memory happens to lie.
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-6)
    assert list(tables[0]["step"]) == [3, 6, 9]
    assert {"train_scores", "train_embedding", "train_maps", "val_loss"} <= set(tables[0])
    assert whole.read_bytes() == parts.read_bytes()
    model = load_model(whole)
    assert model.labels == ["dog", "rain", "saw"]
    assert "9 steps" in model.metadata["training"]
    assert torch.isfinite(model(torch.zeros(1, 5000)).clip_probs).all()


def test_a_run_killed_before_it_wrote_its_model_writes_it_when_resumed(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    path = train(str(tmp_path), epochs=1, **arguments)
    whole = path.read_bytes()
    path.unlink()
    assert train(str(tmp_path), epochs=1, **arguments).read_bytes() == whole


def test_a_student_with_finer_scores_learns_targets_that_are_made_once(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    fine = {"stages": STAGES, "n_features": 8, "score_stride": 4, "score_width": 8}
    path = train(str(tmp_path / "fine"), epochs=1, **{**arguments, "network_config": fine}, over_time=True)
    model = load_model(path)
    assert len(model.score_times(32000)) == 25  # every 40 ms
    assert "train_targets" in pd.read_csv(path.parent / "metrics.csv")
    (corpus,) = arguments["corpora"]
    (made,) = Path(corpus).glob("targets-*.h5")
    before = made.stat().st_mtime_ns
    train(str(tmp_path / "again"), epochs=1, **{**arguments, "network_config": fine}, over_time=True)
    assert made.stat().st_mtime_ns == before


def test_a_run_resumes_only_with_the_same_settings(arguments: dict[str, Any], tmp_path: Path) -> None:
    train(str(tmp_path), epochs=1, **arguments)
    with pytest.raises(ProtocolError, match="seed 0, now 5"):
        train(str(tmp_path), epochs=2, **{**arguments, "seed": 5})
    with pytest.raises(ProtocolError, match="batch_size 2, now 4"):
        train(str(tmp_path), epochs=2, **{**arguments, "batch_size": 4})


def test_a_run_keeps_the_precision_it_began_in(tmp_path: Path) -> None:
    assert _find_precision(tmp_path / CONFIG, "auto", "cpu") == "32-true"  # as the tests' environment has it
    (tmp_path / CONFIG).write_text('{"precision": "bf16-mixed"}')
    assert _find_precision(tmp_path / CONFIG, "auto", "cpu") == "bf16-mixed"


def test_a_student_is_shipped_at_half_size_with_its_metadata(arguments: dict[str, Any], tmp_path: Path) -> None:
    path = train(str(tmp_path / "run"), epochs=1, **arguments)
    assert ship.main([str(path), "weakaudio-tiny", "--root", str(tmp_path)]) == 0
    shipped = tmp_path / "pretrained" / "weakaudio-tiny.safetensors"
    model, trained = load_model(shipped), load_model(path)
    assert model.metadata["name"] == "weakaudio-tiny"
    assert model.metadata["licence"] == "MIT"
    assert list(model.metadata["corpora"].values()) == [1.0]
    assert model.metadata["seed"] == 0
    audio = 0.1 * torch.randn(1, 32000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(audio).clip_probs, trained(audio).clip_probs, rtol=0, atol=2e-3)


def test_a_student_names_the_model_it_was_initialised_from(arguments: dict[str, Any], tmp_path: Path) -> None:
    first = train(str(tmp_path / "first"), epochs=1, **arguments)
    second = train(str(tmp_path / "second"), epochs=1, every=2, start=str(first), **{**arguments, "seed": 3})
    metadata, before = load_model(second).metadata, load_model(first)
    assert metadata["start"] == {"training": before.metadata["training"], "checksum": model_checksum(before)}
    third = train(str(tmp_path / "third"), epochs=1, start=str(second), **{**arguments, "seed": 3})
    assert load_model(third).metadata["start"]["start"] == metadata["start"]
    with pytest.raises(ProtocolError, match="every 2, now 1"):
        train(str(tmp_path / "second"), epochs=1, start=str(first), **{**arguments, "seed": 3})
