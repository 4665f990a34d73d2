"""All converters, and `weakaudio convert`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import plain_efficientat
import plain_panns
import plain_paper
import pytest
import torch
from torch import Tensor, nn

from weakaudio.errors import CheckpointError
from weakaudio.pretrained import converters
from weakaudio.pretrained.checkpoint import open_model, read_header, save_model
from weakaudio.pretrained.converters import CONVERTERS, convert

NAMES = [f"class {n}" for n in range(12)]


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """Content of a file of each kind, with random weights and 12 classes."""
    return {
        "efficientat": plain_efficientat.random_state(0.1, 12),
        "panns": {"model": plain_panns.random_state(1 / 16, 12)},
        "paper": plain_paper.random_state(12),
    }


@pytest.fixture
def files(published: dict[str, Any], tmp_path: Path) -> dict[str, Path]:
    found = {}
    for kind, content in published.items():
        found[kind] = tmp_path / f"{kind}.pt"
        torch.save(content, found[kind])
    return found


@pytest.mark.parametrize("kind", CONVERTERS)
def test_a_converted_model_keeps_the_contract_and_names_its_source(
    files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    model = convert(kind, files[kind], NAMES)
    assert model.metadata == {
        "source": CONVERTERS[kind].source,
        "licence": CONVERTERS[kind].licence,
        "file": f"{kind}.pt",
    }
    save_model(model, tmp_path / "a.safetensors")
    loaded = open_model(tmp_path / "a.safetensors")
    assert (loaded.labels, loaded.metadata, loaded.front_end) == (model.labels, model.metadata, model.front_end)
    generator = torch.Generator().manual_seed(0)
    lengths = [2 * model.sample_rate + 77, 1, model.sample_rate // 4]
    clips = [0.1 * torch.randn(n, generator=generator) for n in lengths]
    with torch.no_grad():
        together = loaded(nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths))
        for row, clip in enumerate(clips):
            alone = model(clip[None])
            count = alone.mask.shape[1]
            assert int(together.mask[row].sum()) == count == len(model.segment_times(len(clip)))
            torch.testing.assert_close(together.clip_probs[row], alone.clip_probs[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(
                together.segment_logits[row, :count], alone.segment_logits[0], rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("kind", ["efficientat", "panns"])
def test_class_names_default_to_audioset_where_the_order_is_audioset_s(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(converters, "audioset_labels", lambda: NAMES)
    assert convert(kind, files[kind]).labels == NAMES


@pytest.mark.parametrize("kind", CONVERTERS)
@pytest.mark.parametrize("count", [0, 11, 13])
def test_another_number_of_class_names_is_refused(files: dict[str, Path], kind: str, count: int) -> None:
    with pytest.raises(CheckpointError, match=rf"{kind}\.pt: weights of 12 classes, but {count} class names; give"):
        convert(kind, files[kind], [str(n) for n in range(count)])


def changed(content: Mapping[str, Any], change: Callable[[dict[str, Tensor]], None]) -> dict[str, Any]:
    """A copy of a file's content with its state dict changed."""
    if "model" in content:
        return {"model": changed(content["model"], change)}
    tensors = dict(content)
    change(tensors)
    return tensors


SOME = {
    "efficientat": "features.7.block.1.1.running_var",
    "panns": "conv_block3.bn2.bias",
    "paper": "layer8.0.weight",
}


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update(extra=tensors.pop(name))


def wider(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.cat([tensors[name], tensors[name]])})


def added(_: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({"attention.weight": torch.zeros(3)})


@pytest.mark.parametrize("kind", CONVERTERS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without, "another network: {} is missing"),
        (wider, "another network: {} is .* expected"),
        (added, "another network: attention.weight has no place in it"),
    ],
)
def test_tensors_of_another_network_are_refused_by_name(
    published: dict[str, Any],
    tmp_path: Path,
    kind: str,
    change: Callable[[str], Callable[[dict[str, Tensor]], None]],
    reason: str,
) -> None:
    torch.save(changed(published[kind], change(SOME[kind])), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt: {reason.format(SOME[kind])}"):
        convert(kind, tmp_path / "a.pt", NAMES)


def test_batch_counters_may_be_missing_as_in_old_files(published: dict[str, Any], tmp_path: Path) -> None:
    tensors = {k: v for k, v in published["efficientat"].items() if not k.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "a.pt")
    convert("efficientat", tmp_path / "a.pt", NAMES)


@pytest.mark.parametrize("kind", CONVERTERS)
@pytest.mark.parametrize("given", CONVERTERS)
def test_a_file_of_another_kind_is_refused_naming_its_kind(files: dict[str, Path], kind: str, given: str) -> None:
    if kind != given:
        with pytest.raises(CheckpointError, match=rf"not weights of the kind '{kind}'.*looks like '{given}'"):
            convert(kind, files[given], NAMES)


@pytest.mark.parametrize("kind", CONVERTERS)
@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        {},
        {"model": {}},
        {"model": [1]},
        {"epoch": 3, "state": {"a": torch.zeros(3)}},
        {3: torch.zeros(3)},
        {name: torch.zeros(12) for name in ("classifier.5.weight", "layer19.0.weight", "fc_audioset.weight")},
    ],
)
def test_content_other_than_a_state_dict_of_the_kind_is_refused(tmp_path: Path, kind: str, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt: not weights of the kind '{kind}'"):
        convert(kind, tmp_path / "a.pt", NAMES)


def test_only_kinds_published_wrapped_are_accepted_wrapped(published: dict[str, Any], tmp_path: Path) -> None:
    for kind, content in (("paper", {"model": published["paper"]}), ("panns", published["panns"]["model"])):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=f"not weights of the kind '{kind}'"):
            convert(kind, tmp_path / "a.pt", NAMES)


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_not_run(published: dict[str, Any], tmp_path: Path, way: str) -> None:
    content, path = {**published["efficientat"], "extra": Code(tmp_path / "run")}, tmp_path / "a.pt"
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(
        CheckpointError, match=r"a\.pt: .*could run code.*nothing of it was run.*EfficientAT"
    ) as error:
        convert("efficientat", path, NAMES)
    assert "weights_only" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_by_name(
    published: dict[str, Any], tmp_path: Path, zipped: bool, kept: float
) -> None:
    path = tmp_path / "a.pt"
    torch.save(published["efficientat"], path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(
        CheckpointError, match=r"a\.pt: (truncated or damaged; download it again|not a file of tensors)"
    ):
        convert("efficientat", path, NAMES)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"RIFF\x00\x00", bytes(1000), b"\x80\x02}q\x00."])
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt: "):
        convert("efficientat", tmp_path / "a.pt", NAMES)


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds more than that"):
        convert("efficientat", tmp_path / "a.pt", NAMES)


def test_an_unknown_kind_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'vggish': unknown; there are efficientat, panns, paper"):
        convert("vggish", tmp_path / "a.pt", NAMES)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match=rf"{path}: no such file"):
            convert("paper", path, NAMES)


def test_the_command_writes_a_model_file(
    files: dict[str, Path], tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    for kind, path in files.items():
        out = tmp_path / "models" / f"{kind}.safetensors"
        code, printed, _ = run("convert", kind, path, "-o", out, "--labels", tmp_path / "classes.txt")
        assert code == 0
        assert f"12 classes, {open_model(out).sample_rate} Hz" in printed
        assert CONVERTERS[kind].licence in printed
        assert read_header(out)["labels"] == NAMES
        assert read_header(out)["metadata"]["source"] == CONVERTERS[kind].source


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["paper", "paper.pt", "-o", "out/a.safetensors"], "every score would get a wrong name"),
        (
            ["paper", "paper.pt", "-o", "out/a.safetensors", "--labels", "eleven.txt"],
            "12 classes, but 11 class names",
        ),
        (
            ["paper", "efficientat.pt", "-o", "out/a.safetensors", "--labels", "classes.txt"],
            "looks like 'efficientat'",
        ),
        (["paper", "none.pt", "-o", "out/a.safetensors", "--labels", "classes.txt"], "no such file"),
        (["paper", "paper.pt", "-o", "out/a.safetensors", "--labels", "none.txt"], "not a readable list of classes"),
        (["vggish", "paper.pt", "-o", "out/a.safetensors", "--labels", "classes.txt"], "there are efficientat"),
        (["paper", "paper.pt", "-o", "out/a.pt", "--labels", "classes.txt"], "ends in .safetensors"),
    ],
)
def test_errors_of_the_command_are_one_line_and_leave_no_file(
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("\n".join(NAMES))
    Path("eleven.txt").write_text("\n".join(NAMES[1:]))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, printed, error = run("convert", *arguments)
    assert (code, printed) == (2, "")
    assert error.startswith("weakaudio: ")
    assert error.count("\n") == 1
    assert reason in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
