"""The ablation of weight normalisation at debug size: systems differ in it alone, and nothing is trained twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import weakaudio_data_prep.soundscapes
import yaml

from recipes import code, results
from recipes.latency import weight_norm as recipe
from weakaudio.networks.layers import ConvNorm
from weakaudio.pretrained import load_model

TINY = ["--data.workers=0", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
SMALL = {
    "N_S": ["--model.network=weakcnn", "--model.network_config={width: 0.0625}"],
    "flash": [
        "--model.network=flash",
        f"--model.network_config={{stages: {[['dense', 1, 4]] * 4}, n_features: 8}}",
    ],
}


@pytest.fixture(scope="module")
def corpus(event_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    weakaudio_data_prep.soundscapes.prepare(str(event_clips), str(out), None, 16, 8, 8)
    return out


def test_figures_of_two_seeds_are_recorded_and_nothing_is_trained_twice(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "NETWORKS", SMALL)
    monkeypatch.setattr(recipe, "RUNS", tmp_path / "runs")
    monkeypatch.setitem(code.CODE, "latency", ["recipes/latency"])
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
    monkeypatch.setattr(recipe, "record", partial(results.record, root=tmp_path))
    arguments = ["--corpus", str(corpus), "--seeds", "1", "2", "--epochs", "1"]
    recipe.main(arguments, TINY)

    found = {(row["system"], row["metric"]): row for row in results.load("latency", tmp_path)}
    assert {system for system, _ in found} == set(recipe.SYSTEMS)
    assert {metric for _, metric in found} == {"mAP", "lwlrap", "mAP gained", "validation mAP, epoch 1 of 1"}
    assert all(row["n"] == 2 and row["spread"] is not None for row in found.values())
    for name in SMALL:
        one, other = (found[name + suffix, "mAP"]["value"] for suffix in (recipe.UNIT_NORM, ""))
        assert found[name + recipe.UNIT_NORM, "mAP gained"]["value"] == pytest.approx(one - other)
        assert (name, "mAP gained") not in found
    assert found["N_S", "mAP"]["data"].endswith("1 epochs, learning rate 0.003")
    assert found["N_S", "mAP"]["command"].endswith("--seeds 1 2 --epochs 1 --learning-rate 0.003")
    assert "weights of unit norm" in results.table("latency", "weight normalisation", tmp_path)
    assert len(list((tmp_path / "runs").glob("*/evaluation/per_class.csv"))) == 8

    monkeypatch.setattr(recipe, "train", lambda _: pytest.fail("a finished run was trained again"))
    recipe.main(arguments, TINY)
    again = {(row["system"], row["metric"]): row for row in results.load("latency", tmp_path)}
    assert again == found


@pytest.mark.parametrize("name", recipe.NETWORKS)
def test_a_network_differs_in_its_norms_alone(name: str, corpus: Path, tmp_path: Path) -> None:
    budget = recipe.Budget(1, 0.01)
    systems = (name, name + recipe.UNIT_NORM)
    plain, unit = (recipe.train_once(system, 2, budget, tmp_path, corpus, TINY) for system in systems)
    for run, projected in ((plain, False), (unit, True)):
        network = load_model(run / recipe.MODEL).network
        norms = torch.cat(
            [x.conv.weight.flatten(1).norm(dim=1) for x in network.modules() if isinstance(x, ConvNorm)]
        )
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5) == projected
    one, other = (yaml.safe_load((run / "config.yaml").read_text()) for run in (plain, unit))
    assert one["trainer"].pop("callbacks") is None
    assert len(other["trainer"].pop("callbacks")) == 1
    for config, run in ((one, plain), (other, unit)):
        assert config.pop("out") == config["trainer"].pop("default_root_dir") == str(run)
    assert one == other
    assert (one["seed_everything"], one["data"]["seed"], one["model"]["learning_rate"]) == (2, 1, 0.01)


def test_runs_of_other_budgets_and_seeds_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(recipe, "train", seen.append)
    runs = {
        recipe.train_once(system, seed, recipe.Budget(epochs, rate), tmp_path, tmp_path)
        for system in recipe.SYSTEMS
        for seed in (1, 2)
        for epochs in (1, 2)
        for rate in (0.001, 0.003)
    }
    assert len(runs) == len(seen) == 32


def test_a_quarter_of_a_run_is_a_quarter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def save(self, folder: Path) -> None: ...

    monkeypatch.setattr(recipe, "evaluate", lambda *_: Nothing())
    monkeypatch.setattr(recipe, "load_model", lambda _: None)
    monkeypatch.setattr(recipe, "Corpus", lambda _: None)
    (tmp_path / "log").mkdir()
    for epochs, early in ((8, 0.2), (1, 0.1), (3, 0.1)):
        lines = "".join(f"{0.1 * n}\n" for n in range(1, epochs + 1))
        (tmp_path / "log" / "metrics.csv").write_text(f"val_mAP\n{lines}")
        assert recipe.measure(tmp_path, tmp_path).early == pytest.approx(early)
