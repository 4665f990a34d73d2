"""Weight normalisation: filters have unit norm after every step of a real training; nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_runs import EVERYTHING, arguments, same

from weakaudio.data.datamodule import ClipDataModule
from weakaudio.errors import ProtocolError
from weakaudio.networks import Network, build_network
from weakaudio.networks.layers import ConvNorm, fold_norms
from weakaudio.training import weight_norm
from weakaudio.training.callbacks import Averaging
from weakaudio.training.fit import train
from weakaudio.training.lightning_module import TaggingModule
from weakaudio.training.weight_norm import WeightNormalisation, project, unit_weights

LABELS = ["onset", "macro_average"]
NETWORKS: dict[str, dict[str, Any]] = {
    "weakcnn": {"width": 0.0625},
    "flash": {
        "stages": [["dense+inverted", 2, 4], ["large-kernel", 1, 8], ["frequency", 1, 8], ["attention", 1, 8]],
        "n_features": 16,
    },
    "mobilenet": {"width": 0.1},
}
CALLBACK = "--trainer.callbacks+=weakaudio.training.weight_norm.WeightNormalisation"


def lengths(weight: Tensor) -> list[float]:
    """Norms of filters, by a plain loop."""
    return [float(np.sqrt((row**2).sum())) for row in weight.detach().double().numpy()]


def filters(network: nn.Module) -> list[float]:
    """Norms of all filters that batch normalisation follows."""
    return [x for m in network.modules() if isinstance(m, ConvNorm) for x in lengths(m.conv.weight)]


def tagger(network: str = "weakcnn", **options: Any) -> TaggingModule:
    lightning.seed_everything(0, verbose=False)
    options = {"network_config": NETWORKS[network], "front_end": "16k", "learning_rate": 0.02, **options}
    return TaggingModule(LABELS, network, **options)


def fit(
    model: TaggingModule,
    corpus: Path,
    callbacks: Sequence[lightning.Callback],
    resumed: Path | None = None,
    **options: Any,
) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "limit_val_batches": 0, **quiet, **options}
    trainer = lightning.Trainer(accelerator="cpu", logger=False, callbacks=list(callbacks), **options)
    trainer.fit(model, ClipDataModule(str(corpus), batch_seconds=8, workers=0), ckpt_path=resumed)
    return trainer


class Watch(lightning.Callback):
    """Norms of filters before and after each batch, and the classifier's weights after it."""

    def __init__(self) -> None:
        self.norms: list[list[float]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.norms.append(filters(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.norms.append(filters(pl_module))
        self.weights.append(pl_module.model.network.classifier.weight.detach().clone())


@pytest.mark.parametrize(
    ("network", "model", "trainer"),
    [
        *((name, {}, {}) for name in NETWORKS),
        ("flash", {"network_config": {"stages": [["recurrence", 1, 4]] * 4, "n_features": 16}}, {}),
        ("flash", {"channels_last": True, "weight_decay": 0.1}, {"precision": "bf16-mixed"}),
        ("flash", {}, {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}),
    ],
)
def test_norms_are_one_before_the_first_step_and_after_each(
    network: str, model: dict[str, Any], trainer: dict[str, Any], tones: Path
) -> None:
    watch, net = Watch(), tagger(network, **model)
    assert not np.allclose(filters(net), 1, atol=0.05)
    fit(net, tones, [watch, WeightNormalisation()], **trainer)
    assert len(watch.norms) > 4
    np.testing.assert_allclose(watch.norms, 1, atol=1e-6)
    assert not torch.equal(watch.weights[0], watch.weights[-1])


def test_only_steps_of_the_optimiser_are_followed_by_a_projection(
    tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(weight_norm, "project", calls.append)
    watch = Watch()
    trainer = fit(tagger(), tones, [watch, WeightNormalisation()], max_epochs=2, accumulate_grad_batches=2)
    assert 1 < trainer.global_step < len(watch.weights)
    assert len(calls) == 1 + trainer.global_step
    trainer.optimizers[0].step()  # after training, the optimiser has no hook left
    assert len(calls) == 1 + trainer.global_step


def test_a_compiled_network_has_the_same_layers() -> None:
    network = build_network("flash", n_classes=3, **NETWORKS["flash"])
    assert len(unit_weights(network)) == 5 + 2 + 3 + 2 + 2 + 2  # entries and last, and of each operator
    assert unit_weights(torch.compile(network)) == unit_weights(network)  # type: ignore[arg-type]


def test_norms_grow_without_the_callback(tones: Path) -> None:
    watch = Watch()
    fit(tagger(), tones, [watch])
    assert np.mean(watch.norms[-1]) > np.mean(watch.norms[0]) > 0.4
    assert not np.allclose(watch.norms[-1], 1, atol=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_exempt_parameters_are_untouched(name: str) -> None:
    network = build_network(name, n_classes=3, **NETWORKS[name])
    projected = {id(layer.conv.weight) for layer in network.modules() if isinstance(layer, ConvNorm)}
    before = copy.deepcopy(network)
    project(unit_weights(network))
    for (key, new), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old) == (id(new) not in projected), key


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_projection_does_not_change_the_output(
    name: str, training: bool, randomise: Callable[[Network], Network]
) -> None:
    """With a negligible epsilon in the norms."""
    network = randomise(build_network(name, n_classes=3, **NETWORKS[name])).double()
    logmel, n_frames = 10 * torch.randn(4, 200, 128, dtype=torch.float64), torch.tensor([200, 150, 200, 130])
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(2)  # as after a long training
                if layer.bias is not None:
                    nn.init.normal_(layer.bias)
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps, layer.momentum = 1e-14, 1.0
        network.train().forward_features(logmel, n_frames)  # statistics that fit the weights
        other = copy.deepcopy(network)
        project(unit_weights(other))
        (before, mask), (after, _) = (
            net.train(training).forward_features(logmel, n_frames) for net in (network, other)
        )
    assert float(before[mask].std()) > 0.1
    torch.testing.assert_close(after[mask], before[mask], rtol=1e-6, atol=1e-6)


def test_frozen_weights_and_zero_filters_are_left_alone() -> None:
    layers = nn.ModuleList(ConvNorm(3, 4, 3, padding=1) for _ in range(2))
    frozen, dead = (layer.conv.weight for layer in layers if isinstance(layer, ConvNorm))
    frozen.requires_grad_(False)
    with torch.no_grad():
        dead[0] = 0
    before = copy.deepcopy(layers)
    project(unit_weights(layers))
    assert lengths(dead) == pytest.approx([0, 1, 1, 1])
    for name, tensor in before[0].state_dict().items():
        assert torch.equal(tensor, layers[0].state_dict()[name]), name
    assert all(bool(tensor.isfinite().all()) for tensor in layers.state_dict().values())


def test_bfloat16_weights_have_unit_norm_within_their_precision() -> None:
    layer = ConvNorm(256, 4, 3, padding=1).bfloat16()
    project(unit_weights(layer))
    assert layer.conv.weight.dtype == torch.bfloat16
    assert lengths(layer.conv.weight.float()) == pytest.approx([1] * 4, abs=1e-3)


def test_averages_are_of_projected_weights(tones: Path) -> None:
    """The mean of nearby vectors on the unit sphere lies slightly inside it."""
    watch, net = Watch(), tagger(learning_rate=1e-3)
    fit(net, tones, [*Averaging("ema", 0.5).callbacks(), WeightNormalisation(), watch], limit_val_batches=1.0)
    np.testing.assert_allclose(watch.norms, 1, atol=1e-6)
    averaged = filters(net)
    assert 0.98 < min(averaged) < 1 - 1e-6
    assert max(averaged) < 1 + 1e-6


def test_an_interrupted_run_ends_as_the_undisturbed_one(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [*EVERYTHING, CALLBACK, "--trainer.max_epochs=2"]
    train(arguments(tones, tmp_path / "undisturbed", *more))
    step = TaggingModule.training_step

    def stop(self: TaggingModule, batch: Any, number: int) -> Tensor:
        if (self.current_epoch, number) in moments:
            moments.clear()
            raise RuntimeError("stopped")
        return step(self, batch, number)

    monkeypatch.setattr(TaggingModule, "training_step", stop)
    for moment in ((0, 3), (1, 2)):
        moments = {moment}
        with pytest.raises(RuntimeError, match="stopped"):
            train(arguments(tones, tmp_path / "stopped", *more))
    train(arguments(tones, tmp_path / "stopped", *more))
    same(tmp_path / "stopped", tmp_path / "undisturbed")


class Save(lightning.Callback):
    """Writes a checkpoint after the first batch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_is_not_projected_again(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding would change bits. The checkpoint is from before the first step, so steps alone would not tell."""
    path, callback = tmp_path / "last.ckpt", WeightNormalisation()
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "limit_train_batches": 2}
    fit(tagger(), tones, [callback, Save(path)], **options)
    assert torch.load(path, weights_only=True)["global_step"] == 0
    calls: list[Any] = []
    monkeypatch.setattr(weight_norm, "project", calls.append)
    assert fit(tagger(), tones, [callback], path, **options).global_step == 1
    assert len(calls) == 1


def test_a_run_started_without_it_is_projected_when_resumed_with_it(tones: Path, tmp_path: Path) -> None:
    path, watch = tmp_path / "last.ckpt", Watch()
    fit(tagger(), tones, [Save(path)], limit_train_batches=3)
    fit(tagger(), tones, [watch, WeightNormalisation()], path, limit_train_batches=3)
    assert len(watch.norms) == 4
    np.testing.assert_allclose(watch.norms, 1, atol=1e-6)


def test_a_callback_can_be_used_for_several_trainings(tones: Path) -> None:
    callback, watch = WeightNormalisation(), Watch()
    for _ in range(2):
        fit(tagger(), tones, [callback, watch], limit_train_batches=2)
    assert len(watch.norms) == 8
    np.testing.assert_allclose(watch.norms, 1, atol=1e-6)


def test_a_network_without_such_layers_is_refused(tones: Path) -> None:
    net = tagger()
    fold_norms(net.model.network)
    with pytest.raises(ProtocolError, match="TaggingModule has no convolution followed by"):
        fit(net, tones, [WeightNormalisation()])
