"""Proxies with tiny teachers on a few sounds."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from weakaudio_data_prep.unlabelled import prepare

from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError, StoreError, WeakAudioError
from weakaudio.nas import blockwise as module
from weakaudio.nas.blockwise import BlockwiseDistillation
from weakaudio.nas.proxies import ShortTraining
from weakaudio.nas.stores import StageStore
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.networks.operators import OPERATORS
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model

CONFIG: dict[str, Any] = {
    "stages": [["dense", 1, 8], ["dense", 1, 16], ["dense", 1, 16], ["dense", 0, 16]],
    "n_features": 8,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, randomise: Callable[[Network], Network]) -> Path:
    """A corpus of tones and noises at 32 kHz, one at 16 kHz, and teachers."""
    root = tmp_path_factory.mktemp("proxy")
    rng = np.random.default_rng(0)
    (root / "sounds").mkdir()
    for n in range(24):
        tone = np.sin(2 * np.pi * rng.uniform(100, 8000) * np.arange(16000) / 32000)
        sf.write(root / "sounds" / f"{n}.wav", 0.2 * tone + 0.02 * rng.standard_normal(16000).clip(-3, 3), 32000)
    prepare(str(root / "sounds"), str(root / "corpus"), 32000, held_out=0.3)
    prepare(str(root / "sounds"), str(root / "slow"), 16000, held_out=0.3)
    teachers = {"mobile": ("mobilenet", {"width": 0.1}), "flash": ("flash", CONFIG), "weak": ("weakcnn", {})}
    for name, (kind, arguments) in teachers.items():
        network = randomise(build_network(kind, n_classes=3, **arguments))
        save_model(Model(network, "efficientat-32k", ["dog", "rain", "saw"]), root / f"{name}.safetensors")
    return root


def short(root: Path, **more: Any) -> ShortTraining:
    settings = {"steps": 8, "seconds": 0.5, "batch_size": 4, "precision": "32-true", "workers": 0, **more}
    return ShortTraining(str(root / "mobile.safetensors"), {str(root / "corpus"): 1.0}, **settings)


def blockwise(root: Path, store: Path, teacher: str = "mobile", **more: Any) -> BlockwiseDistillation:
    settings = {"steps": 2, "mixtures": 8, "seconds": 0.4, "batch_size": 4, "precision": "32-true", **more}
    return BlockwiseDistillation(
        str(root / f"{teacher}.safetensors"), {str(root / "corpus"): 1.0}, store=store / "stages.json", **settings
    )


def with_stage(n: int, *stage: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config["stages"][n] = list(stage)
    return config


class Records(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_short_training_says_the_same_each_time_and_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lightning, records = logging.getLogger("lightning.pytorch.utilities.rank_zero"), Records()
    monkeypatch.setattr(lightning, "handlers", [records])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    first = short(root)(CONFIG)
    assert torch.equal(torch.rand(3), drawn)  # the caller's random numbers are not touched
    torch.manual_seed(2)
    assert short(root)(CONFIG) == pytest.approx(first, rel=1e-5)  # validation rounds as memory happens to lie
    assert short(root, seed=1)(CONFIG) != pytest.approx(first, rel=1e-3)
    assert short(root)({**CONFIG, "n_classes": 5, "n_mels": 64}) == pytest.approx(
        first, rel=1e-5
    )  # the teacher's count
    assert list(tmp_path.iterdir()) == []
    assert (records.said, *capsys.readouterr()) == ([], "", "")


def test_longer_training_lowers_the_loss(root: Path) -> None:
    one, many = (short(root, steps=steps, learning_rate=1e-2)(CONFIG) for steps in (1, 30))
    assert np.isfinite(many)
    assert many < 0.7 * one


def test_a_short_training_that_diverges_gives_no_number(root: Path) -> None:
    assert not np.isfinite(short(root, learning_rate=1e30)(CONFIG))


@pytest.mark.parametrize("make", [short, lambda root, **more: blockwise(root, root / "unused", **more)])
def test_what_cannot_be_trained_is_refused(root: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(WeakAudioError, match="precision 'half', expected auto, bf16-mixed or 32-true"):
        make(root, precision="half")
    for wrong in ({"steps": 0}, {"batch_size": 0}, {"seconds": 0.0}, {"seconds": float("nan")}):
        with pytest.raises(WeakAudioError, match="expected 1 or more"):
            make(root, **wrong)
    with pytest.raises(ProtocolError, match=r"corpora at 16000 Hz, and the teacher .* takes 32000 Hz"):
        replace(make(root), corpora={str(root / "slow"): 1.0})(CONFIG)
    with pytest.raises(WeakAudioError, match="WeakCNN has no stages"):
        replace(make(root), teacher=str(root / "weak.safetensors"))(CONFIG)
    with pytest.raises(WeakAudioError, match="'sparse': unknown"):
        make(root)(with_stage(2, "sparse", 1, 16))
    with pytest.raises(WeakAudioError, match="'nowhere': not available"):
        make(root, device="nowhere")(CONFIG)
    assert not (root / "unused" / "stages.json").exists()


def test_a_score_is_the_sum_of_its_stages_and_recombinations_cost_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = blockwise(root, tmp_path)
    first = proxy.stage_errors(CONFIG)
    assert json.loads((tmp_path / "stages.json").read_text())["stages"] == {
        "stage 1, 1 channels to 1 dense, 8": first[0],
        "stage 2, 8 channels to 1 dense, 16": first[1],
        "stage 3, 16 channels to 1 dense, 16": first[2],
        "stage 4, 16 channels to 0 blocks, 16": first[3],
    }
    other = {"stages": [["dense", 2, 8], ["dense", 2, 16], ["dense", 2, 16], ["dense", 1, 24]], "n_features": 8}
    second = proxy.stage_errors(other)
    assert proxy(CONFIG) == pytest.approx(sum(first))
    assert len(set(first + second)) == 8

    def refuse(*args: Any) -> float:
        raise AssertionError("a known stage is trained again")

    monkeypatch.setattr(BlockwiseDistillation, "_train", refuse)
    mixed = {"stages": [other["stages"][0], CONFIG["stages"][1], other["stages"][2], CONFIG["stages"][3]]}
    mixed["n_features"] = 99  # is not scored
    expected = [second[0], first[1], second[2], first[3]]
    assert proxy.stage_errors(mixed) == expected
    assert blockwise(root, tmp_path).stage_errors(mixed) == expected  # from the file
    for changed in (with_stage(1, "dense", 1, 8), with_stage(2, "dense", 3, 16), with_stage(2, "inverted", 1, 16)):
        with pytest.raises(AssertionError, match="trained again"):
            proxy(changed)


def test_a_stage_is_worth_the_same_wherever_it_is_found_first(root: Path, tmp_path: Path) -> None:
    others = {"stages": [["inverted", 2, 8], ["dense", 1, 16], ["dense", 0, 8], ["inverted", 1, 8]], "n_features": 4}
    one = blockwise(root, tmp_path / "one").stage_errors(CONFIG)
    two = blockwise(root, tmp_path / "two").stage_errors(others)
    assert two[1] == pytest.approx(one[1], rel=1e-6)


def test_operators_that_no_block_uses_make_no_other_stage(root: Path, tmp_path: Path) -> None:
    proxy = blockwise(root, tmp_path)
    errors = proxy.stage_errors(CONFIG)
    assert proxy.stage_errors(with_stage(1, "dense+inverted", 1, 16)) == errors
    assert proxy.stage_errors(with_stage(3, "inverted", 0, 16)) == errors
    assert len(json.loads((tmp_path / "stages.json").read_text())["stages"]) == 4


def test_every_operator_can_be_scored_in_every_stage(root: Path, tmp_path: Path) -> None:
    proxy = blockwise(root, tmp_path, steps=1, mixtures=4, precision="bf16-mixed")
    scores = [proxy({"stages": [[name, 1, 16]] * 4, "n_features": 8}) for name in OPERATORS]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == len(OPERATORS)


def test_a_killed_proxy_loses_only_the_current_stage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    learn = BlockwiseDistillation._train

    def killed(proxy: BlockwiseDistillation, n: int, *args: Any) -> float | None:
        if n == 2 and 2 not in learned:
            learned.append(n)
            raise KeyboardInterrupt
        learned.append(n)
        return learn(proxy, n, *args)

    monkeypatch.setattr(BlockwiseDistillation, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        blockwise(root, tmp_path / "killed")(CONFIG)
    found = blockwise(root, tmp_path / "killed").stage_errors(CONFIG)
    assert learned == [0, 1, 2, 2, 3]
    assert found == pytest.approx(blockwise(root, tmp_path / "whole").stage_errors(CONFIG), rel=1e-6)


def test_stages_learn_the_teachers_maps(root: Path, tmp_path: Path) -> None:
    """Untrained, they have an error of about 1 or more; the teacher's own architecture learns them easily."""
    settings = {"teacher": "flash", "mixtures": 16, "learning_rate": 1e-2}
    little = blockwise(root, tmp_path / "little", steps=1, **settings).stage_errors(CONFIG)
    much = blockwise(root, tmp_path / "much", steps=60, **settings).stage_errors(CONFIG)
    assert all(b < min(0.7 * a, 0.7) for a, b in zip(little, much, strict=True))


def test_distillation_targets_are_the_log_mel_and_the_maps_standardised_by_channel(
    root: Path, tmp_path: Path
) -> None:
    """Against one pass over all mixtures at once."""
    proxy = blockwise(root, tmp_path, mixtures=6)
    model = load_model(root / "mobile.safetensors").eval()
    sets = [
        Mixtures(proxy.corpora, proxy.seconds, size, seed, {"split": split})
        for size, seed, split in ((6, 0, "train"), (16, 1, "val"))
    ]
    with torch.no_grad():
        logmels = [model.logmel(next(iter(mixture_loader(some, 99, workers=0))))[0] for some in sets]
        train, val = (model.network.forward_maps(logmel).maps for logmel in logmels)
    for targets, logmel in zip((proxy._targets.train, proxy._targets.val), logmels, strict=True):
        torch.testing.assert_close(targets[0].float(), logmel[:, None], rtol=2e-3, atol=1e-3)
    for n, (mine, other) in enumerate(zip(train, val, strict=True), start=1):
        std, mean = torch.std_mean(mine, dim=(0, 2, 3), keepdim=True, correction=0)
        live = std.flatten() > 0.05  # others are divided by what keeps them from growing
        assert live.any()
        for targets, maps in ((proxy._targets.train, mine), (proxy._targets.val, other)):
            expected = ((maps - mean) / std)[:, live]
            torch.testing.assert_close(targets[n].float()[:, live], expected, rtol=5e-3, atol=5e-3)


def test_decimated_distillation_targets_are_means_around_every_second_row(root: Path, tmp_path: Path) -> None:
    whole, few = (
        blockwise(root, tmp_path / "a", mixtures=6),
        blockwise(root, tmp_path / "b", mixtures=6, frame_stride=2),
    )
    assert torch.equal(few._targets.train[0], whole._targets.train[0][:, :, ::2])
    for mine, maps in zip(few._targets.train[1:], whole._targets.train[1:], strict=True):
        rows = maps.float().unbind(2)
        around = [[*rows[max(n - 1, 0) : n], rows[n], *rows[n : n + 2]] for n in range(0, len(rows), 2)]
        means = torch.stack([torch.stack(some).mean(0) for some in around], 2)
        std, mean = torch.std_mean(means, dim=(0, 2, 3), keepdim=True, correction=0)
        live = std.flatten() > 0.2
        assert live.any()
        torch.testing.assert_close(mine.float()[:, live], ((means - mean) / std)[:, live], rtol=2e-2, atol=2e-2)
    config = {"stages": [["dense", 1, 8]] * 4, "n_features": 8}
    assert few(config) != whole(config)
    assert short(root, frame_stride=2)(config) != short(root)(config)


def test_the_error_is_the_mean_square_over_validation_mixtures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that says 0 is off by the square of what it should say."""
    training: list[bool] = []

    def forward(student: Any, x: torch.Tensor) -> torch.Tensor:
        training.append(student.training)
        zeros = x.new_zeros(len(x), 16, -(-x.shape[2] // 2), x.shape[3] // 2)
        return 0 * student.after(zeros)

    monkeypatch.setattr(module._StageStudent, "forward", forward)
    proxy = blockwise(root, tmp_path, seconds=0.5)
    error = proxy._train(2, module.Stage("dense", 1, 16), 16)
    assert error == pytest.approx(float(proxy._targets.val[3].float().square().mean()), rel=1e-4)
    assert training == [True] * 2 + [False] * 4  # steps, batches


def test_a_teacher_of_other_strides_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = blockwise(root, tmp_path, teacher="flash")
    forward = type(load_model(proxy.teacher).network).forward_maps

    def early(*args: Any) -> Any:
        features = forward(*args)
        return features._replace(maps=features.maps[:3])

    monkeypatch.setattr(type(load_model(proxy.teacher).network), "forward_maps", early)
    with pytest.raises(ProtocolError, match=r"its stages make .* expected four, at strides 4, 8, 16, 32"):
        proxy(CONFIG)


def test_a_stage_that_diverges_is_remembered_as_such(root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(WeakAudioError, match=r"stage 1, 1 channels to 1 dense, 8: its training diverges"):
            blockwise(root, tmp_path, learning_rate=float("inf"))(CONFIG)
    assert list(json.loads((tmp_path / "stages.json").read_text())["stages"].values()) == [None]


def test_proxies_can_be_sent_to_other_processes_without_what_they_have_in_memory(root: Path, tmp_path: Path) -> None:
    proxy = blockwise(root, tmp_path)
    before = proxy(CONFIG)
    sent = pickle.dumps(proxy)
    assert len(sent) < 2000
    assert pickle.loads(sent) == proxy
    assert pickle.loads(sent)(CONFIG) == before
    assert pickle.loads(pickle.dumps(short(root))) == short(root)


def test_stores_keep_what_is_added(tmp_path: Path) -> None:
    store, other = (StageStore(tmp_path / "new" / "stages.json", {"steps": 3}) for _ in range(2))
    assert "a" not in store
    store.add("a", 0.1)
    other.add("b", None)  # has not seen the first
    assert (other["a"], other["b"], len(other)) == (0.1, None, 2)
    assert "b" in store  # added by the other meanwhile
    again = StageStore(tmp_path / "new" / "stages.json", {"steps": 3})
    assert (again["a"], again["b"], len(again)) == (0.1, None, 2)


def test_settings_keep_the_names_of_the_first_release(root: Path, tmp_path: Path) -> None:
    """Else stores and logs from then would be refused."""
    for proxy in (short(root, frame_stride=2), blockwise(root, tmp_path, frame_stride=2)):
        assert proxy.settings["every"] == 2
        assert "frame_stride" not in proxy.settings


def add_some(path: Path, first: int) -> None:
    store = StageStore(path, {})
    for n in range(first, first + 10):
        store.add(str(n), float(n))


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_some, args=(tmp_path / "s.json", 100 * n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    store = StageStore(tmp_path / "s.json", {})
    assert {key for n in range(3) for key in map(str, range(100 * n, 100 * n + 10))} == set(store._errors)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "damaged"),
        ('{"kind": "weakaudio stages", "settings": {"steps": 3}, "sta', "damaged"),
        ("[]", "holds no stages"),
        ('{"kind": "other"}', "holds no stages"),
        ('{"kind": "weakaudio stages"}', "damaged"),
        ('{"kind": "weakaudio stages", "settings": {"steps": 3}, "stages": {"a": "low"}}', "damaged"),
        ('{"kind": "weakaudio stages", "settings": {"steps": 3}, "stages": {"a": NaN}}', "damaged"),
        ('{"kind": "weakaudio stages", "settings": {"steps": 4}, "stages": {}}', "steps 4, now 3"),
    ],
)
def test_stores_that_are_damaged_or_were_made_with_other_settings_are_refused(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "stages.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=says):
        StageStore(path, {"steps": 3})
    assert path.read_text() == content


def test_a_store_of_another_teacher_is_refused(root: Path, tmp_path: Path) -> None:
    blockwise(root, tmp_path, steps=1)(CONFIG)
    with pytest.raises(StoreError, match="steps 1, now 2"):
        blockwise(root, tmp_path, steps=2)(CONFIG)
    with pytest.raises(StoreError, match="teacher"):
        blockwise(root, tmp_path, teacher="flash", steps=1)(CONFIG)
