"""Every YAML of the recipe trains and is measured, on a tiny AudioSet that is prepared as README says."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import yaml
from matplotlib.image import imread
from tiny import TINY
from typer.testing import CliRunner
from weakaudio_data_prep.audioset import prepare

from recipes.audioset import evaluate
from recipes.audioset.figure import per_class_figure
from weakaudio.cli import app
from weakaudio.data.corpus import Corpus
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import train

FOLDER = Path(evaluate.__file__).parent
CONFIGS = sorted(FOLDER.glob("*.yaml"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
MIDS = {"/m/dog": "Dog", "/m/pet": "Pet, small", "/m/rain": "Rain"}
Made = Callable[[int], Path]


@pytest.fixture(scope="module")
def audioset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists and audio: 60 training clips, four of them gone, and 12 to test, of 0.2 to 0.4 s."""
    root, rng = tmp_path_factory.mktemp("audioset"), np.random.default_rng(0)
    rows = "".join(f'{n},{mid},"{name}"\n' for n, (mid, name) in enumerate(MIDS.items()))
    (root / "class_labels_indices.csv").write_text("index,mid,display_name\n" + rows)
    for name, count in {"balanced_train": 40, "unbalanced_train": 20, "eval": 12}.items():
        lines = []
        for n in range(count):
            ytid, mids = (
                f"{name[:7]:_<7}{n:04d}",
                [mid for k, mid in enumerate(MIDS) if n % (k + 2) == 0] or ["/m/dog"],
            )
            lines.append(f'{ytid}, 30.000, 40.000, "{",".join(mids)}"\n')
            if n % 15 != 14:
                sf.write(root / f"Y{ytid}.wav", 0.2 * rng.standard_normal(rng.integers(3200, 6400)), 16000)
        (root / f"{name}_segments.csv").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def corpus(audioset: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The corpus at a sample rate, with clips in each split."""
    made: dict[int, Path] = {}

    def make(sample_rate: int) -> Path:
        if sample_rate not in made:
            out = tmp_path_factory.mktemp("corpus") / str(sample_rate)
            lists = ["balanced_train", "unbalanced_train", "eval"]
            summary = prepare(str(audioset), str(out), lists=lists, held_out=0.3, sample_rate=sample_rate)
            assert summary.groups["split val"] > 5
            made[sample_rate] = out
        return made[sample_rate]

    return make


@pytest.fixture(scope="module")
def run(corpus: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained by the debug settings."""
    out = tmp_path_factory.mktemp("runs") / "debug"
    return train([f"--config={FOLDER / 'debug.yaml'}", *TINY, f"--data.root={corpus(16000)}", f"--out={out}"])


def test_each_run_says_what_it_was_trained_on(run: Path) -> None:
    model = load_model(run)
    assert model.labels == list(MIDS.values())
    assert (model.metadata["corpus"], model.metadata["train"], model.metadata["val"]) == (
        "16000",
        {"split": "train"},
        {"split": "val"},
    )


def test_the_papers_two_systems_differ_in_network_and_loss_alone() -> None:
    weak, slat = (yaml.safe_load((FOLDER / f"balanced_{name}.yaml").read_text()) for name in ("weak", "slat"))
    assert (weak["model"].pop("network"), weak["model"].pop("loss"), weak.pop("out"))[:2] == ("weakcnn", "weak")
    assert (slat["model"].pop("network"), slat["model"].pop("loss"), slat.pop("out"))[:2] == ("windowed-cnn", "slat")
    assert weak == slat
    assert WeakCNN(527, **weak["model"]["network_config"]).config["width"] == 1


def test_a_model_is_measured_class_by_class(
    run: Path, corpus: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run), str(corpus(16000)), "--out"]
    assert evaluate.main([*arguments, str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"metrics.json", "per_class.csv", "per_class.png"}
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["where"] == {"split": "test"}
    assert metrics["clip"]["n_clips"] == 12
    assert metrics["corpus"] == "16000"
    table = pd.read_csv(tmp_path / "a" / "per_class.csv")
    assert table["class"].tolist() == list(MIDS.values())
    assert {"ap", "auc", "lwlrap", "positives"} <= set(table)
    whole = np.average(table["lwlrap"], weights=table["positives"])
    assert whole == pytest.approx(metrics["clip"]["lwlrap"])
    height, width, _ = imread(tmp_path / "a" / "per_class.png").shape
    assert width > height > 500

    lines = {line.split("│")[1].strip(): line for line in said.splitlines() if "│" in line}
    assert f"{metrics['clip']['mean_ap']:.3f}" in lines["debug"]
    assert "0.213" in lines["N_S, the paper's *"]
    assert "0.927" in lines["N_S, the paper's *"]
    assert "0.167" in lines["SLAT, the paper's *"]
    assert "* the paper's, on its own download of AudioSet, not run here" in " ".join(said.split())
    assert "12 clips of split test; means over the 3 of 3 classes" in " ".join(said.split())

    assert evaluate.main([*arguments, str(tmp_path / "b"), "--split", "val"]) == 0
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["where"] == {"split": "val"}


def test_training_clips_of_each_class_are_those_the_model_was_trained_on(
    run: Path, corpus: Made, audioset: Path, tmp_path: Path
) -> None:
    model, table = load_model(run), pd.read_csv(corpus(16000) / "manifest.csv")
    counts = Counter(name for labels in table[table["split"] == "train"]["labels"] for name in labels.split(";"))
    found = evaluate.training_positives(model, Corpus(corpus(16000)))
    assert found is not None
    assert found.to_dict() == counts
    other = load_model(run)
    other.metadata["corpus"] = "elsewhere"
    assert evaluate.training_positives(other, Corpus(corpus(16000))) is None
    eval_only = tmp_path / "16000"
    prepare(str(audioset), str(eval_only), lists=["eval"], sample_rate=16000)
    assert evaluate.training_positives(model, Corpus(eval_only)) is None


@pytest.mark.parametrize("count", [1, 2, 20, 21, 527])
@pytest.mark.parametrize("known", [True, False])
def test_the_figure_shows_every_class_and_names_the_best_and_the_worst(count: int, known: bool) -> None:
    rng = np.random.default_rng(0)
    names = [f"class {n}" for n in range(count)]
    table = pd.DataFrame({"class": names, "ap": rng.permutation(count) / count})
    absent = pd.DataFrame({"class": ["untrained"], "ap": [np.nan]})
    training = pd.Series(rng.integers(0, 10**6, count + 1), index=[*names, "untrained"]) if known else None
    every, ends = per_class_figure(pd.concat([absent, table]), training).axes
    points = np.concatenate([dots.get_offsets() for dots in every.collections])
    assert sorted(points[:, 1]) == sorted(table["ap"])
    ranked = table.sort_values("ap", ascending=False)["class"].tolist()
    named = min(10, count // 2)
    assert [label.get_text() for label in ends.get_yticklabels()] == ranked[:named] + ranked[count - named :]
    assert every.get_xlabel() == ("training clips of the class" if known else "class, best first")
    assert (every.get_xscale() == "symlog") == known
    assert every.get_ylabel() == ends.get_xlabel() == "average precision"


def test_a_class_without_training_clips_stands_at_0() -> None:
    table = pd.DataFrame({"class": ["a", "b", "c"], "ap": [0.1, 0.2, 0.3]})
    figure = per_class_figure(table, pd.Series({"a": 0, "b": 5, "c": 1000}))
    every, _ = figure.axes
    assert [label.get_text() for label in every.get_xticklabels()] == ["0", "1", "10", "100", "1k"]
    assert 0 in np.concatenate([dots.get_offsets()[:, 0] for dots in every.collections])
    left, zero, one = every.transData.transform([(every.get_xlim()[0], 0), (0, 0), (1, 0)])[:, 0]
    assert left < zero < one


@pytest.mark.parametrize(
    ("name", "corpus_of", "said"),
    [
        ("other.safetensors", 16000, "its 3 classes are not the model's 2"),
        ("same.safetensors", 32000, "clips at 32000 Hz"),
        ("nothing", 16000, "nothing"),
    ],
)
def test_a_mismatch_is_one_line_and_exit_code_2(
    name: str, corpus_of: int, said: str, corpus: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, labels in {"other": ["Dog", "Cat"], "same": list(MIDS.values())}.items():
        network = WeakCNN(len(labels), n_mels=64, width=0.0625)
        save_model(Model(network, "16k", labels), tmp_path / f"{file}.safetensors")
    where = str(tmp_path / name) if name.endswith("s") else name
    root = str(corpus(corpus_of))
    capsys.readouterr()  # what preparing it said
    assert evaluate.main([where, root, "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "out").exists()


def test_all_settings_are_in_the_readme() -> None:
    assert {path.name for path in CONFIGS} <= set(re.findall(r"recipes/audioset/(\w+\.yaml)", README))
    assert all(f"]({path.name})" in README for path in CONFIGS)


@pytest.mark.parametrize("block", re.findall(r"(?:^    \S.+\n)+", README, re.MULTILINE), ids=range(3))
def test_the_readme_runs_line_by_line(
    block: str, audioset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.sub(r"--held_out \S+", "--held_out 0.3", block).replace("--workers 8", "")
    for line in block.replace("LISTS", str(audioset)).replace("AUDIO", str(audioset)).splitlines():
        command, words = re.fullmatch(
            r"    (weakaudio train|weakaudio|python -m recipes\.audioset\.\w+) (.+)", line
        ).groups()  # type: ignore[union-attr]
        arguments = [str(FOLDER / Path(word).name) if word.endswith(".yaml") else word for word in shlex.split(words)]
        if command == "weakaudio":
            assert CliRunner().invoke(app, arguments).exit_code == 0
        elif command.endswith("train"):
            train([*arguments, *TINY])
        else:
            assert evaluate.main(arguments) == 0
    written = {path.parent.parent.name for path in tmp_path.glob("runs/audioset/*/evaluation/per_class.png")}
    assert written == set(re.findall(r"(\w+)\.yaml", block))
