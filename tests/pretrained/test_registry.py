"""Models by name: shipped, published and built in code, and the tables that list them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from plain_efficientat import random_state
from weights_server import WeightsServer

from recipes import results
from weakaudio.errors import CheckpointError
from weakaudio.networks import MobileNet, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import catalogue as catalogue_module
from weakaudio.pretrained.catalogue import Entry, cache_folder, catalogue, list_models, shipped_folder
from weakaudio.pretrained.checkpoint import model_checksum, save_model
from weakaudio.pretrained.converters import CONVERTERS, audioset_labels
from weakaudio.pretrained.registry import load_model

ROOT = Path(__file__).parents[2]
LABELS = ["Speech", "Dog", "Rain"]

Register = Callable[..., None]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file in EfficientAT's layout."""
    path = tmp_path_factory.mktemp("published") / "tiny.pt"
    torch.save(random_state(0.1, len(LABELS)), path)
    return path.read_bytes()


@pytest.fixture
def server(published: bytes) -> Iterator[WeightsServer]:
    with WeightsServer(published) as running:
        yield running


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An isolated installation: a folder with a tiny weakaudio-base, where `register` writes, and an empty cache."""
    folder = tmp_path / "shipped"
    base = Model(WeakCNN(len(LABELS), n_mels=64, width=1 / 16), "16k", LABELS)
    save_model(base, folder / "weakaudio-base.safetensors")
    monkeypatch.setattr(catalogue_module, "shipped_folder", lambda: folder)
    monkeypatch.setattr("weakaudio.pretrained.download._ATTEMPTS", 2)
    monkeypatch.setattr("weakaudio.pretrained.download._WAIT", 0.0)
    monkeypatch.setenv("WEAKAUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def register(shipped: Path) -> Register:
    """Write a registry with weakaudio-base and one published model, `theirs`."""

    def write(url: str, **facts: object) -> None:
        theirs = {"urls": [url], "convert": "efficientat", **facts}
        tables = {"weakaudio-base": {"file": "weakaudio-base.safetensors"}, "theirs": theirs}
        common = {"description": "d", "licence": "MIT", "sample_rate": 32000, "labels": "l", "classes": len(LABELS)}
        lines = []
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in {**common, **table}.items())]
        (shipped / "registry.toml").write_text("\n".join(lines))

    return write


def left_in_cache() -> list[str]:
    """All files in the cache except locks, which stay."""
    files = (path for path in cache_folder().rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.relative_to(cache_folder()).as_posix() for path in files)


def test_a_shipped_model_loads_by_name(register: Register, shipped: Path) -> None:
    register("http://127.0.0.1/none")
    assert list_models() == ["weakaudio-base", "theirs"]
    expected = load_model(shipped / "weakaudio-base.safetensors")
    assert model_checksum(load_model("weakaudio-base")) == model_checksum(expected)
    assert audioset_labels() == LABELS


def test_a_missing_shipped_model_is_named_with_the_remedy(
    register: Register, shipped: Path, server: WeightsServer
) -> None:
    register(server.url)
    (shipped / "weakaudio-base.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weakaudio-base\.safetensors: no such file.*reinstall weakaudio"):
        load_model("weakaudio-base")
    with pytest.raises(CheckpointError, match=r"weakaudio-base\.safetensors.*names of AudioSet's classes"):
        load_model("theirs")
    assert server.requests == []  # nothing is downloaded that could not be opened


def test_a_damaged_registry_is_named(shipped: Path) -> None:
    for text in ("[", "[a]\nno_such_key = 1", None):
        if text is None:
            (shipped / "registry.toml").unlink()
        else:
            (shipped / "registry.toml").write_text(text)
        with pytest.raises(CheckpointError, match=r"registry\.toml.*reinstall weakaudio"):
            load_model("weakaudio-base")


def test_a_published_model_is_downloaded_once_and_converted(
    register: Register, server: WeightsServer, published: bytes
) -> None:
    register(server.url, sha256=hashlib.sha256(published).hexdigest(), size=len(published))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model("theirs")
        again = load_model("theirs")
    assert len(server.requests) == 1
    assert (model.labels, model.sample_rate) == (LABELS, 32000)
    assert model_checksum(model) == model_checksum(again)
    assert left_in_cache() == ["weights.bin"]


def test_a_file_placed_by_hand_is_used_and_checked(
    register: Register, server: WeightsServer, published: bytes
) -> None:
    register(server.url, sha256=hashlib.sha256(published).hexdigest())
    cache_folder().mkdir(parents=True)
    by_hand = cache_folder() / "weights.bin"
    by_hand.write_bytes(published)
    assert load_model("theirs").labels == LABELS
    by_hand.write_bytes(published + b"\0")
    with pytest.raises(CheckpointError, match=r"weights\.bin: its SHA-256 is .* for theirs; delete the file"):
        load_model("theirs")
    assert by_hand.exists()  # never delete a user's file
    assert server.requests == []


def test_an_unverified_file_is_trusted_on_first_use_with_a_warning(register: Register, server: WeightsServer) -> None:
    register(server.url)
    with pytest.warns(UserWarning, match="could not verify") as warned:
        load_model("theirs")
    assert len(warned) == 1
    assert warned[0].filename == __file__  # the line that asked for the model
    assert left_in_cache() == ["weights.bin", "weights.bin.sha256"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("theirs")
    checked = shutil.which("sha256sum")
    if checked:
        subprocess.run([checked, "--check", "--quiet", "weights.bin.sha256"], cwd=cache_folder(), check=True)
    path = cache_folder() / "weights.bin"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"recorded on first use; .* delete .*weights\.bin\.sha256"):
        load_model("theirs")


def test_a_file_that_differs_from_first_use_is_deleted_until_the_record_is(
    register: Register, server: WeightsServer, published: bytes
) -> None:
    register(server.url)
    with pytest.warns(UserWarning, match="could not verify"):
        load_model("theirs")
    (cache_folder() / "weights.bin").unlink()
    buffer = io.BytesIO()
    torch.save(torch.load(io.BytesIO(published), weights_only=True), buffer, _use_new_zipfile_serialization=False)
    server.content = buffer.getvalue()  # the same tensors in another file
    with pytest.raises(CheckpointError, match="sent something else"):
        load_model("theirs")
    assert left_in_cache() == ["weights.bin.sha256"]
    (cache_folder() / "weights.bin.sha256").unlink()
    with pytest.warns(UserWarning, match="could not verify"):
        load_model("theirs")


def test_a_file_that_contradicts_the_registry_is_refused(register: Register, server: WeightsServer) -> None:
    register(server.url, classes=7)
    with pytest.raises(CheckpointError, match="classes at 32000 Hz, but theirs has 7"):
        load_model("theirs")
    assert left_in_cache() == []


def test_a_read_only_cache_is_used(
    register: Register, server: WeightsServer, published: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(server.url)
    cache_folder().mkdir(parents=True)
    (cache_folder() / "weights.bin").write_bytes(published)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.warns(UserWarning, match=r"could not be kept beside the file \(Permission denied\)"):
        assert load_model("theirs").labels == LABELS


@pytest.mark.parametrize(
    ("fault", "facts"),
    [
        ("disguised", {}),
        ("html", {}),
        ("lie", {}),
        ("lie", {"sha256": 64 * "0"}),
        ("", {"sha256": 64 * "0"}),
        ("", {"parameters": 7}),
        ("", {"convert": "panns"}),
    ],
)
def test_a_file_that_does_not_open_is_not_kept(
    register: Register, server: WeightsServer, fault: str, facts: dict[str, object]
) -> None:
    register(server.url, **facts)
    server.faults = [fault]
    with pytest.raises(CheckpointError, match=r"^theirs: could not be downloaded") as caught:
        load_model("theirs")
    assert len(str(caught.value).splitlines()) == 1
    assert server.url in str(caught.value)
    assert left_in_cache() == []


def test_a_pickle_with_code_in_it_is_neither_run_nor_kept(
    register: Register, server: WeightsServer, tmp_path: Path
) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "harm",)

    torch.save({"classifier.5.weight": Harm()}, tmp_path / "harmful.pt")
    server.content = (tmp_path / "harmful.pt").read_bytes()
    register(server.url)
    with pytest.raises(CheckpointError, match="could run code"):
        load_model("theirs")
    assert not (tmp_path / "harm").exists()
    assert left_in_cache() == []


def test_the_cache_folder_is_configurable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKAUDIO_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "models"
    monkeypatch.setenv("WEAKAUDIO_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "weakaudio" in cache_folder().parts


# The registry of this repository


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_registry_entries_are_correct(entry: Entry) -> None:
    assert not (entry.file and entry.urls)
    assert all(url.startswith("https://") for url in entry.urls)
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.convert is None or (entry.convert in CONVERTERS and entry.labels == "audioset-527")
    assert all(metric.source for metric in entry.metrics)
    if entry.path is None:
        model = load_model(entry.name)
    elif entry.file and entry.is_available:
        model = load_model(entry.name)
        content = entry.path.read_bytes()
        assert entry.size in (None, len(content))
        assert entry.sha256 in (None, hashlib.sha256(content).hexdigest())
        assert model.labels == audioset_labels()
    else:
        return
    assert (model.sample_rate, len(model.labels)) == (entry.sample_rate, entry.classes)
    assert sum(parameter.numel() for parameter in model.network.parameters()) == entry.parameters


def test_file_names_of_the_registry_are_unique() -> None:
    paths = [entry.path for entry in catalogue().values() if entry.path is not None]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("width", [0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_efficientat_models_have_their_sizes_and_figures(width: float) -> None:
    entry = catalogue()[f"efficientat-mn{round(10 * width):02}"]
    with torch.device("meta"):
        network = MobileNet(527, width=width)
    assert entry.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert entry.urls[0].endswith(
        f"/mn{round(10 * width):02}_as_mAP_{1000 * (entry.value('AudioSet', 'mAP') or 0):.0f}.pt"
    )


def test_measured_figures_are_those_of_the_recipes() -> None:
    for entry in catalogue().values():
        for metric in entry.metrics:
            if metric.source.startswith("recipes/"):
                rows = results.load(metric.source.removeprefix("recipes/"))
                wanted = (entry.name, metric.data, "five folds (%)")
                found = [row["value"] for row in rows if (row["system"], row["what"], row["metric"]) == wanted]
                assert any(abs(value - 100 * metric.value) < 0.05 for value in found), entry.name


def test_in_a_checkout_shipped_files_are_beside_the_package() -> None:
    assert shipped_folder() == ROOT / "pretrained"


# The tables


Run = Callable[..., tuple[int, str, str]]


def test_models_shows_where_each_one_is(register: Register, server: WeightsServer, shipped: Path, run: Run) -> None:
    register(server.url, size=5_000_000)
    code, out, _ = run("models")
    assert code == 0
    assert re.search(r"weakaudio-base .*MIT +shipped\s*$", out, re.MULTILINE)
    assert re.search(r"theirs .*MIT +to download, 5.0 MB\s*$", out, re.MULTILINE)
    register(server.url)
    with pytest.warns(UserWarning, match="could not verify"):
        load_model("theirs")
    (shipped / "weakaudio-base.safetensors").unlink()
    code, out, _ = run("models")
    assert code == 0
    assert re.search(r"weakaudio-base .*MIT +missing\s*$", out, re.MULTILINE)
    assert re.search(r"theirs .*MIT +downloaded\s*$", out, re.MULTILINE)


def test_the_table_of_models_fits_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = run("models")[1]
    assert all(name in out for name in catalogue())
    assert "…" not in out


def test_measure_times_available_models_and_downloads_nothing(
    register: Register, server: WeightsServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(server.url)
    code, out, _ = run("models", "--measure")
    assert code == 0
    assert re.search(r"weakaudio-base .*MIT +\d+ +\d+\s*$", out, re.MULTILINE)
    assert re.search(r"theirs .*MIT\s*$", out, re.MULTILINE)
    assert server.requests == []


def test_measure_continues_past_a_damaged_file(register: Register, shipped: Path, run: Run) -> None:
    register("http://127.0.0.1/none.bin")
    (shipped / "weakaudio-base.safetensors").write_bytes(b"damaged")
    code, out, err = run("models", "--measure")
    assert code == 3
    assert "theirs" in out
    assert re.search(r"weakaudio-base\.safetensors: not a weakaudio model", err)


def test_listing_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['weakaudio', 'models']\n"
        "from weakaudio.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print(sorted({'torch', 'librosa', 'lightning', 'pandas'} & set(sys.modules)))"
    )
    listing = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listing.stdout.endswith("[]\n")
    assert "untrained-16k" in listing.stdout
