from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from weakaudio.errors import CheckpointError
from weakaudio.networks import NETWORKS, Network, build_network
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import POOLINGS
from weakaudio.pretrained.catalogue import list_models
from weakaudio.pretrained.checkpoint import model_checksum, read_header, save_model
from weakaudio.pretrained.registry import load_model


def tiny_model(name: str = "weakcnn", **config: object) -> Model:
    small = {"width": 1 / 16, "n_mels": 64}
    if name == "stacked":
        config = {"base": "weakcnn", "base_config": {"n_classes": 4, **small}}
    config = {
        key: value for key, value in small.items() if key in inspect.signature(NETWORKS[name]).parameters
    } | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(name, n_classes=3, **config)
    return Model(network, "16k", ["dog", "rain", "Säge"], {"training": "none", "mAP": 0.1}).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tiny_model(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def rewrite(saved: Path) -> Callable[..., Path]:
    """Change header entries of a saved model, and drop its checksum, as in files of early releases."""

    def change(**entries: object) -> Path:
        header = {**read_header(saved), **entries}
        header.pop("sha256", None)
        tensors = safetensors.torch.load_file(saved)
        safetensors.torch.save_file(tensors, saved, metadata={"weakaudio": json.dumps(header)})
        return saved

    return change


@pytest.mark.parametrize(
    ("name", "config"),
    [(name, {}) for name in NETWORKS]
    + [(name, {"pooling": pooling}) for name in ("weakcnn", "windowed-cnn") for pooling in POOLINGS]
    + [(name, {"coverage": "paper"}) for name in ("weakcnn", "windowed-cnn")],
)
def test_a_loaded_model_has_bit_equal_output(
    tmp_path: Path, randomise: Callable[..., Network], name: str, config: dict[str, str]
) -> None:
    model = tiny_model(name, **config)
    randomise(model.network)
    save_model(model, tmp_path / "sub" / "a.safetensors")
    loaded = load_model(tmp_path / "sub" / "a.safetensors")
    audio, lengths = torch.randn(2, 30000), torch.tensor([30000, 500])
    assert all(torch.equal(a, b) for a, b in zip(loaded(audio, lengths), model(audio, lengths), strict=True))
    assert not loaded.training
    assert (loaded.labels, loaded.metadata, loaded.front_end) == (model.labels, model.metadata, model.front_end)
    assert model_checksum(loaded) == model_checksum(model)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", ["weakcnn", "mobilenet", "flash"])
def test_float16_weights_hardly_change_the_output(
    tmp_path: Path, randomise: Callable[..., Network], name: str
) -> None:
    model = tiny_model(name)
    randomise(model.network)
    save_model(model, tmp_path / "whole.safetensors")
    save_model(model, tmp_path / "half.safetensors", half=True)
    loaded = load_model(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in loaded.network.state_dict().values()} <= {torch.float32, torch.int64}
    audio = torch.randn(1, 30000)
    torch.testing.assert_close(loaded(audio).clip_probs, model(audio).clip_probs, rtol=0, atol=5e-3)
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["half"] < 0.8 * sizes["whole"]  # headers and batch normalisations stay as they are


def test_any_json_metadata_pass_the_checksum(tmp_path: Path) -> None:
    model = tiny_model()
    model.metadata = {"z": (1, 2), "ü": {2: 0.1, 10: float("nan"), 1: None}, "a": 1e-7}
    save_model(model, tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").metadata["ü"]["2"] == 0.1


def test_header_describes_the_model(saved: Path) -> None:
    header = read_header(saved)
    assert header["format_version"] == 2
    assert header["network"] == "weakcnn"
    assert header["config"] == tiny_model().network.config
    assert header["front_end"]["sample_rate"] == 16000
    assert header["labels"] == ["dog", "rain", "Säge"]
    assert header["metadata"] == {"training": "none", "mAP": 0.1}


def test_front_end_comes_from_the_file_not_from_its_preset(
    tmp_path: Path,
) -> None:
    model = tiny_model()
    own = replace(model.front_end, f_min=300.0)
    save_model(Model(model.network, own, model.labels), tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").front_end == own


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(tiny_model().state_dict(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a pickle"):
        load_model(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors"):
        load_model(saved)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("part", ["labels", "metadata", "weight"])
def test_one_changed_bit_is_found(saved: Path, half: bool, part: str) -> None:
    save_model(tiny_model(), saved, half)
    content = bytearray(saved.read_bytes())
    place = {"labels": content.index(b"rain"), "metadata": content.index(b"none"), "weight": len(content) - 200}[part]
    content[place] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: .* their SHA-256 is not"):
        load_model(saved)


def test_a_file_without_a_checksum_is_read_unless_its_weights_are_not_finite(
    saved: Path, rewrite: Callable[..., Path]
) -> None:
    assert model_checksum(load_model(rewrite())) == model_checksum(tiny_model())
    header, tensors = {**read_header(saved)}, safetensors.torch.load_file(saved)
    assert "sha256" not in header
    tensors["classifier.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, saved, metadata={"weakaudio": json.dumps(header)})
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: .* classifier\.weight holds NaN"):
        load_model(saved)


@pytest.mark.parametrize("kind", ["F6_E2M3", "F4", "F8_E4M3"])
def test_unsupported_number_formats_are_refused(saved: Path, rewrite: Callable[..., Path], kind: str) -> None:
    content = rewrite().read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    entry = header["classifier.weight"]
    n_bits = 8 * (entry["data_offsets"][1] - entry["data_offsets"][0])
    entry.update(dtype=kind, shape=[n_bits // int(kind[1])])
    head = json.dumps(header).encode()
    saved.write_bytes(len(head).to_bytes(8, "little") + head + content[end:])
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: "):
        load_model(saved)


def test_tensors_without_our_header_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny_model().network.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: not a weakaudio model"):
        load_model(tmp_path / "other.safetensors")


def test_a_file_of_format_1_is_read_with_the_same_checksum(tmp_path: Path) -> None:
    """As earlier releases wrote it: "notes" is "metadata" now, and the file's own SHA-256 covers the old name."""
    model, path = tiny_model(), tmp_path / "old.safetensors"
    header = {
        "format_version": 1,
        "network": "weakcnn",
        "config": model.network.config,
        "front_end": model.front_end.to_dict(),
        "labels": model.labels,
        "notes": model.metadata,
    }
    tensors = model.network.state_dict()
    digest = hashlib.sha256(json.dumps(header).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    header["sha256"] = digest.hexdigest()
    safetensors.torch.save_file(tensors, path, metadata={"weakaudio": json.dumps(header)})
    assert load_model(path).metadata == read_header(path)["metadata"] == model.metadata
    assert model_checksum(load_model(path)) == model_checksum(model)


@pytest.mark.parametrize(
    ("name", "checksum"),
    [("weakaudio-base", "2338b0a39057"), ("weakaudio-small", "933f9aac5041"), ("weakaudio-fast", "ff63e5122b7c")],
)
def test_shipped_files_have_the_checksum_that_results_are_recorded_under(name: str, checksum: str) -> None:
    model = load_model(name)
    assert model_checksum(model).startswith(checksum)
    assert model.metadata["licence"] == "MIT"


def test_an_unknown_format_version_is_refused_naming_both(rewrite: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"format 999.*up to 2"):
        load_model(rewrite(format_version=999))


@pytest.mark.parametrize(
    "entries",
    [
        {"config": {"n_classes": 3, "n_mels": 64, "width": 1 / 8}},
        {"config": {"n_classes": 4, "n_mels": 64, "width": 1 / 16}},
        {"config": {"n_classes": 3, "n_mels": 64, "width": 1 / 16, "pooling": "attention"}},
        {"config": {"n_classes": 3, "n_mels": 64, "width": 1 / 16, "heads": 2}},
        {"network": "resnet"},
        {"labels": ["dog"]},
        {"front_end": {"name": "16k"}},
    ],
)
def test_a_header_that_does_not_fit_its_tensors_is_refused(
    rewrite: Callable[..., Path], entries: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors"):
        load_model(rewrite(**entries))


def test_an_unknown_name_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"best-model.*untrained-16k"):
        load_model("best-model")
    assert {"untrained-16k", "untrained-44k"} <= set(list_models())


def test_checksum_distinguishes_models() -> None:
    checksums = {model_checksum(tiny_model())}
    weight = tiny_model()
    with torch.no_grad():
        next(weight.network.parameters()).flatten()[0] += 1e-3
    statistic = tiny_model()
    statistic.network.f1.norm.running_mean[0] += 1e-3
    label = tiny_model()
    label.labels[0] = "cat"
    front_end = Model(tiny_model().network, replace(tiny_model().front_end, f_min=30.0), tiny_model().labels)
    others = [weight, statistic, label, front_end, tiny_model("windowed-cnn"), tiny_model(coverage="paper")]
    checksums |= {model_checksum(other) for other in others}
    assert len(checksums) == 1 + len(others)
    assert model_checksum(tiny_model()) in checksums


def test_untrained_model_is_deterministic_and_keeps_the_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = load_model("untrained-16k")
    assert torch.equal(torch.rand(1), expected)
    assert model_checksum(first) == model_checksum(load_model("untrained-16k"))
    assert first.sample_rate == 16000
    assert first(torch.zeros(1, 16000)).clip_probs.shape == (1, 527)


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    fused, other = tiny_model(), tiny_model()
    fused.network.fuse()
    other.network.reset_classifier(5)
    state = torch.random.get_rng_state()
    for model, reason in ((fused, "fused"), (other, "3 labels for 5 classes")):
        with pytest.raises(CheckpointError, match=reason):
            save_model(model, tmp_path / "a.safetensors")
    save_model(tiny_model(), tmp_path / "b.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)  # saving draws no random numbers
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


def test_a_model_file_has_the_default_permissions(saved: Path) -> None:
    plain = saved.with_name("plain")
    plain.write_text("")
    assert saved.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_the_file_cannot_hold_are_not_saved(tmp_path: Path, value: float) -> None:
    """1e6 is beyond float16."""
    model = tiny_model()
    with torch.no_grad():
        model.network.classifier.weight[0, 0] = value
    with pytest.raises(CheckpointError, match=r"classifier\.weight holds NaN, infinity, or a value beyond float16"):
        save_model(model, tmp_path / "a.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_is_named_and_left_clean(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder.safetensors", tmp_path / "file" / "a.safetensors"):
        with pytest.raises(CheckpointError, match=f"{path.name}: cannot be written"):
            save_model(tiny_model(), path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.safetensors"]


@pytest.mark.parametrize(
    "entries",
    [
        {"labels": ["dog", "dog", "Säge"]},
        {"labels": "dog"},
        {"front_end": {**tiny_model().front_end.to_dict(), "hop_length": 0}},
        {"front_end": {**tiny_model().front_end.to_dict(), "f_max": 9000.0}},
        {"front_end": {**tiny_model().front_end.to_dict(), "win_length": 1024}},
        {"front_end": {**tiny_model().front_end.to_dict(), "edges": "wrap"}},
        {"front_end": {**tiny_model().front_end.to_dict(), "n_mels": 128}},
        {"front_end": {**tiny_model().front_end.to_dict(), "n_mels": 2**50}},
    ],
)
def test_invalid_header_values_are_refused(rewrite: Callable[..., Path], entries: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="do not fit together"):
        load_model(rewrite(**entries))
