"""Models by name: shipped, published, built in code; and the tables that list them."""

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
from functools import partial
from pathlib import Path

import pytest
import torch
from plain_efficientat import random_state
from weights_server import WeightsServer

from recipes import results
from weakaudio.cli import main
from weakaudio.errors import CheckpointError
from weakaudio.networks import MobileNet, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import CONVERTERS, load_model, model_checksum, model_names, save_model
from weakaudio.pretrained import catalogue as catalogue_module
from weakaudio.pretrained import registry as registry_module
from weakaudio.pretrained.catalogue import Entry, cache_folder, catalogue, shipped_folder
from weakaudio.pretrained.registry import audioset_labels

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
    """An installation of its own: a folder with a tiny weakaudio-base and what `register` writes, and a cache."""
    folder = tmp_path / "shipped"
    base = Model(WeakCNN(len(LABELS), n_mels=64, width=1 / 16), "16k", LABELS)
    save_model(base, folder / "weakaudio-base.safetensors")
    monkeypatch.setattr(catalogue_module, "shipped_folder", lambda: folder)
    monkeypatch.setattr(registry_module, "download", partial(registry_module.download, attempts=2, wait=0.0))
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
    """All files in the cache but locks, which are empty and mean nothing."""
    files = (path for path in cache_folder().rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.relative_to(cache_folder()).as_posix() for path in files)


def test_a_shipped_model_opens_by_its_name(register: Register, shipped: Path) -> None:
    register("http://127.0.0.1/none")
    assert model_names() == ["weakaudio-base", "theirs"]
    expected = load_model(shipped / "weakaudio-base.safetensors")
    assert model_checksum(load_model("weakaudio-base")) == model_checksum(expected)
    assert audioset_labels() == LABELS


def test_a_shipped_model_that_is_missing_is_named_with_the_remedy(
    register: Register, shipped: Path, server: WeightsServer
) -> None:
    register(server.url)
    (shipped / "weakaudio-base.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weakaudio-base\.safetensors: no such file.*install weakaudio anew"):
        load_model("weakaudio-base")
    with pytest.raises(CheckpointError, match=r"weakaudio-base\.safetensors.*names of AudioSet's classes"):
        load_model("theirs")
    assert server.requests == []  # nothing is fetched that could not be opened


def test_a_damaged_registry_is_named(shipped: Path) -> None:
    for text in ("[", "[a]\nno_such_key = 1", None):
        if text is None:
            (shipped / "registry.toml").unlink()
        else:
            (shipped / "registry.toml").write_text(text)
        with pytest.raises(CheckpointError, match=r"registry\.toml.*install weakaudio anew"):
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


def test_a_file_put_there_by_hand_is_used_and_checked(
    register: Register, server: WeightsServer, published: bytes
) -> None:
    register(server.url, sha256=hashlib.sha256(published).hexdigest())
    cache_folder().mkdir(parents=True)
    by_hand = cache_folder() / "weights.bin"
    by_hand.write_bytes(published)
    assert load_model("theirs").labels == LABELS
    by_hand.write_bytes(published + b"\0")
    with pytest.raises(CheckpointError, match=r"weights\.bin: its SHA-256 is .* published for theirs; delete it"):
        load_model("theirs")
    assert by_hand.exists()  # the user's file is the user's
    assert server.requests == []


def test_what_nobody_verified_is_trusted_once_with_a_warning(register: Register, server: WeightsServer) -> None:
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
    with pytest.raises(CheckpointError, match=r"kept from its first use; .* delete .*weights\.bin\.sha256"):
        load_model("theirs")


def test_another_file_than_that_of_the_first_use_does_not_stay_and_can_be_trusted_anew(
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


def test_a_registry_that_says_something_else_than_the_file_is_refused(
    register: Register, server: WeightsServer
) -> None:
    register(server.url, classes=7)
    with pytest.raises(CheckpointError, match="classes at 32000 Hz, but theirs has 7"):
        load_model("theirs")
    assert left_in_cache() == []


def test_a_cache_that_others_filled_need_not_be_writable(
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
def test_what_cannot_be_opened_is_not_kept(
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


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKAUDIO_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "models"
    monkeypatch.setenv("WEAKAUDIO_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "weakaudio" in cache_folder().parts


# The registry of this repository


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_what_the_registry_says_is_so(entry: Entry) -> None:
    assert not (entry.file and entry.urls)
    assert all(url.startswith("https://") for url in entry.urls)
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.convert is None or (entry.convert in CONVERTERS and entry.labels == "audioset-527")
    assert all(metric.source for metric in entry.metrics)
    if entry.path is None:
        model = load_model(entry.name)
    elif entry.file and entry.at_hand:
        model = load_model(entry.name)
        content = entry.path.read_bytes()
        assert entry.size in (None, len(content))
        assert entry.sha256 in (None, hashlib.sha256(content).hexdigest())
        assert model.labels == audioset_labels()
    else:
        return
    assert (model.sample_rate, len(model.labels)) == (entry.sample_rate, entry.classes)
    assert sum(parameter.numel() for parameter in model.network.parameters()) == entry.parameters


def test_files_of_the_registry_have_names_of_their_own() -> None:
    paths = [entry.path for entry in catalogue().values() if entry.path is not None]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("width", [0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_efficientat_s_models_are_listed_with_their_sizes_and_figures(width: float) -> None:
    entry = catalogue()[f"efficientat-mn{round(10 * width):02}"]
    with torch.device("meta"):
        network = MobileNet(527, width=width)
    assert entry.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert entry.urls[0].endswith(
        f"/mn{round(10 * width):02}_as_mAP_{1000 * (entry.value('AudioSet', 'mAP') or 0):.0f}.pt"
    )


def test_figures_that_this_project_measured_are_those_of_its_recipes() -> None:
    for entry in catalogue().values():
        for metric in entry.metrics:
            if metric.source.startswith("recipes/"):
                rows = results.load(metric.source.removeprefix("recipes/"))
                wanted = (entry.name, metric.data, "five folds (%)")
                found = [row["value"] for row in rows if (row["system"], row["what"], row["metric"]) == wanted]
                assert any(abs(value - 100 * metric.value) < 0.05 for value in found), entry.name


def test_registry_and_shipped_weights_are_beside_the_package_in_a_checkout() -> None:
    assert shipped_folder() == ROOT / "pretrained"


# The tables


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weakaudio", *args])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


Run = Callable[..., tuple[int, str, str]]


def test_models_says_where_each_one_is(register: Register, server: WeightsServer, shipped: Path, run: Run) -> None:
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
    assert re.search(r"weakaudio-base .*MIT +missing here\s*$", out, re.MULTILINE)
    assert re.search(r"theirs .*MIT +downloaded\s*$", out, re.MULTILINE)


def test_models_of_this_repository_fit_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = run("models")[1]
    assert all(name in out for name in catalogue())
    assert "…" not in out


def test_measure_times_what_is_at_hand_and_downloads_nothing(
    register: Register, server: WeightsServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.latency.device._ROUNDS", (1, 1))
    register(server.url)
    code, out, _ = run("models", "--measure")
    assert code == 0
    assert re.search(r"weakaudio-base .*MIT +\d+ +\d+\s*$", out, re.MULTILINE)
    assert re.search(r"theirs .*MIT\s*$", out, re.MULTILINE)
    assert server.requests == []


def test_measure_goes_on_past_a_damaged_file(register: Register, shipped: Path, run: Run) -> None:
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


def test_names_of_the_room_are_there_in_any_order() -> None:
    code = (
        "import weakaudio.pretrained as room\n"
        "assert [name for name in room.__all__ if getattr(room, name) is None] == []\n"
        "assert callable(room.convert)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
