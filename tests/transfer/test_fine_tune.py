from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.networks import FlashCNN, MobileNet, Network, StackedNetwork, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.cross_validate_networks import ADAPTATIONS, clip_probs, cross_validate_fine_tuned
from weakaudio.transfer.fine_tune import PRESETS, FineTuneConfig, Preset, attach, fine_tune, trained_parameters

RATE = 16000
QUICK = FineTuneConfig(epochs=8, patience=8, learning_rate=0.03, batch_seconds=10.0, held_out=0.2)


@pytest.fixture
def model(randomise: Callable[[Network], Network]) -> Model:
    """Untrained network with enough classes to tell sounds apart by their probabilities."""
    names = [f"class {n}" for n in range(24)]
    return Model(randomise(WeakCNN(24, n_mels=64, width=0.125, depth=1)), "16k", names).eval()


def sounds(n: int = 40) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Clips of 0.3 to 0.8 s with a low tone, a high tone or noise, and their one-hot classes."""
    rng = np.random.default_rng(0)
    clips = []
    for k in range(n):
        t = np.arange(int(RATE * rng.uniform(0.3, 0.8))) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (300 if k % 3 == 0 else 3000) * rng.uniform(0.9, 1.1) * t)
        clips.append((0.1 * rng.standard_normal(len(t)) if k % 3 == 2 else tone).astype(np.float32))
    return clips, np.eye(3, dtype=np.float32)[np.arange(n) % 3]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_copy_learns_other_classes_and_the_original_is_unchanged(model: Model, preset: str) -> None:
    clips, targets = sounds()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # The rate of QUICK is too high where the preset multiplies it for the new layer.
    config = QUICK if PRESETS[preset].new_rate == 1 else replace(QUICK, learning_rate=3e-3)
    adapted = fine_tune(model, clips, targets, ["low", "high", "noise"], preset, config)
    assert adapted.labels == ["low", "high", "noise"]
    assert adapted.metadata["adapted"]["preset"] == preset
    unseen, truth = sounds(60)
    right = clip_probs(adapted, unseen).argmax(1) == truth.argmax(1)
    assert right.mean() > 0.6  # chance: 1/3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_same_seed_gives_the_same_bits(model: Model) -> None:
    clips, targets = sounds(20)
    state = torch.random.get_rng_state()
    first, second = (fine_tune(model, clips, targets, list("xyz"), "II", QUICK) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("preset", ["head", "I", "III"])
def test_frozen_layers_need_to_be_evaluated_once_only(
    model: Model, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, targets = sounds(20)
    once = fine_tune(model, clips, targets, list("xyz"), preset, QUICK)
    monkeypatch.setattr("weakaudio.transfer.fine_tune._FineTuning._forward_trunks", lambda _: None)
    again = fine_tune(model, clips, targets, list("xyz"), preset, QUICK)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(once.state_dict()[name], tensor, rtol=0, atol=1e-4)


def test_mixed_precision_learns_as_well(model: Model) -> None:
    clips, targets = sounds()
    adapted = fine_tune(model, clips, targets, ["low", "high", "noise"], "I", replace(QUICK, dtype="bfloat16"))
    assert {tensor.dtype for tensor in adapted.network.parameters()} == {torch.float32}
    unseen, truth = sounds(60)
    assert (clip_probs(adapted, unseen).argmax(1) == truth.argmax(1)).mean() > 0.6
    with pytest.raises(WeakAudioError, match="dtype 'float8'"):
        fine_tune(model, clips, targets, ["low", "high", "noise"], "I", replace(QUICK, dtype="float8"))


@pytest.mark.parametrize(
    ("preset", "moved"),
    [("head", {"classifier"}), ("I", {"classifier", "f1"}), ("II", {"classifier", "f1", "blocks"})],
)
def test_only_what_the_preset_updates_changes(model: Model, preset: str, moved: set[str]) -> None:
    clips, targets = sounds(20)
    adapted = fine_tune(model, clips, targets, list("xyz"), preset, QUICK)
    before, after = model.network.state_dict(), adapted.network.state_dict()
    changed = {
        name.split(".")[0]
        for name, tensor in after.items()
        if tensor.shape != before[name].shape or not torch.equal(tensor, before[name])
    }
    assert changed == moved
    statistics = [name for name in after if "running" in name]
    assert all(torch.equal(after[name], before[name]) for name in statistics)  # frozen by default


def test_unfrozen_norms_follow_the_new_clips(model: Model) -> None:
    clips, targets = sounds(20)
    adapted = fine_tune(
        model, clips, targets, list("xyz"), "II", FineTuneConfig(2, freeze_norms=False, batch_seconds=10.0)
    )
    name = "blocks.0.0.norm.running_mean"
    assert not torch.equal(adapted.network.state_dict()[name], model.network.state_dict()[name])


def test_rates_decay_towards_the_input_and_other_layers_are_frozen() -> None:
    for network in (WeakCNN(4, 64, 0.125), MobileNet(4, width=0.1), FlashCNN(4, 64, [("dense", 1, 4)] * 4, 8)):
        groups = trained_parameters(network, Preset("f1", "all", layer_decay=0.5), 1.0)
        rates = [group["lr"] for group in groups]
        assert rates == sorted(rates, reverse=True)  # type: ignore[type-var]
        assert rates[0] == 1.0
        assert rates[-1] == 0.5 ** len(network.layers())
        n_trained = sum(parameter.numel() for group in groups for parameter in group["params"])  # type: ignore[attr-defined]
        assert n_trained == sum(parameter.numel() for parameter in network.parameters())
        assert trained_parameters(network, Preset("f1", "heads", new_rate=5.0), 1.0)[0]["lr"] == 5.0
        trained_parameters(network, PRESETS["head"], 1.0)
        assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"classifier"}


def test_a_layer_on_f2_sees_the_class_probabilities(model: Model, tmp_path: object) -> None:
    stacked = attach(model, ["x", "y"], "f2")
    assert isinstance(stacked.network, StackedNetwork)
    audio = torch.from_numpy(sounds(1)[0][0])[None]
    with torch.inference_mode():
        beneath, above = model(audio), stacked(audio)
        expected = stacked.network.classifier(beneath.segment_logits.sigmoid())
    torch.testing.assert_close(above.segment_logits, expected)
    torch.testing.assert_close(above.embeddings, beneath.embeddings)


def test_fine_tuned_models_can_be_saved(model: Model, tmp_path: pytest.TempPathFactory) -> None:
    clips, targets = sounds(20)
    for preset in ("I", "III"):
        adapted = fine_tune(model, clips, targets, list("xyz"), preset, FineTuneConfig(1, batch_seconds=10.0))
        save_model(adapted, tmp_path / "mine.safetensors")  # type: ignore[operator]
        loaded = load_model(tmp_path / "mine.safetensors")  # type: ignore[operator]
        np.testing.assert_array_equal(clip_probs(loaded, clips), clip_probs(adapted, clips))


def test_validation_clips_share_no_recording_with_training_clips(model: Model) -> None:
    clips, targets = sounds(20)
    with pytest.raises(ProtocolError, match="at least two recordings"):
        fine_tune(model, clips, targets, list("xyz"), "head", QUICK, sources=["one"] * 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:-1], r"targets of shape \(19, 3\) for 20 clips"),
        (lambda t: t * [1, 1, 0], "class 'z' has no clip"),
    ],
)
def test_unfit_targets_are_refused(
    model: Model, change: Callable[[NDArray[np.float32]], NDArray[np.float32]], words: str
) -> None:
    clips, targets = sounds(20)
    with pytest.raises(ProtocolError, match=words):
        fine_tune(model, clips, change(targets), list("xyz"), "head", QUICK)


def test_a_single_class_of_all_clips_and_unknown_presets_are_refused(model: Model) -> None:
    clips, _ = sounds(4)
    with pytest.raises(ProtocolError, match="all clips are 'x'"):
        fine_tune(model, clips, np.ones((4, 1)), ["x"], "head", QUICK)
    with pytest.raises(WeakAudioError, match="there are head, I, II, III, full"):
        fine_tune(model, clips, np.ones((4, 1)), ["x"], "IV", QUICK)


def test_labels_of_a_fold_do_not_change_its_predictions(model: Model) -> None:
    """Its scores do change."""
    clips, targets = sounds(24)
    y = np.array(["low", "high", "noise"])[targets.argmax(1)]
    folds = np.arange(24) // 3 % 2
    config = FineTuneConfig(2, batch_seconds=10.0, learning_rate=0.02)
    shuffled = y.copy()
    shuffled[folds == 1] = np.roll(shuffled[folds == 1], 1)
    found, other = (
        cross_validate_fine_tuned(model, clips, labels, folds, "II", config, adaptations=list(ADAPTATIONS))
        for labels in (y, shuffled)
    )
    assert list(found) == [(use, scored) for use in ADAPTATIONS for scored in ("embedding", "head")]
    for name, scores in found.items():
        np.testing.assert_array_equal(scores.predictions[folds == 1], other[name].predictions[folds == 1])
    for use in ADAPTATIONS:
        assert found[use, "embedding"].accuracies[1] != other[use, "embedding"].accuracies[1]


def test_an_unknown_adaptation_is_refused_before_training(model: Model) -> None:
    with pytest.raises(ProtocolError, match="adaptation 'labels': unknown; there are nothing, norms, entropy"):
        cross_validate_fine_tuned(model, [], [], [], adaptations=["labels"])
