from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import weakaudio
import weakaudio.networks
from weakaudio.audio.frontend import LogMel
from weakaudio.audio.geometry import SegmentGeometry, timeline
from weakaudio.data.corpus import EVENTS, MANIFEST, STORE, Corpus
from weakaudio.data.store import StoreWriter
from weakaudio.errors import LabelError, ManifestError, ProtocolError
from weakaudio.evaluation.corpus import evaluate
from weakaudio.evaluation.tagging import per_class_metrics, tagging_metrics
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum, save_model

LABELS = ["onset", "macro_average"]
RATE = 16000


def model(name: str = "weakcnn") -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(build_network(name, n_classes=2, n_mels=64, width=0.0625), "16k", LABELS).eval()


class Loudness(Network):
    """Detects the tones of the corpus: a segment's score is the level around 500 Hz, or around 3 kHz."""

    def __init__(self, n_classes: int = 2) -> None:
        super().__init__()
        self.config = {"n_classes": n_classes, "pooling": "max"}
        self.n_features = 2
        self.geometry = SegmentGeometry(span=8, hop=4)
        self.reset_classifier(n_classes)
        torch.nn.init.eye_(self.classifier.weight)
        torch.nn.init.zeros_(self.classifier.bias)
        level = LogMel("16k")(torch.sin(torch.arange(RATE) * torch.tensor([[500.0], [3000.0]]) * 2 * math.pi / RATE))
        self.bands = level[0].mean(1).argmax(1).tolist()

    def forward_features(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert lengths is not None
        counts = self.geometry.segment_counts(lengths)
        mask = torch.arange(int(counts.max())) < counts[:, None]
        frames = torch.nn.functional.pad(logmel[:, :, self.bands], (0, 0, 0, 8))
        return frames.unfold(1, 8, 4).mean(3)[:, : mask.shape[1]], mask


@pytest.fixture
def tone_detector(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setitem(weakaudio.networks.NETWORKS, "loudness", Loudness)
    return Model(Loudness(), "16k", LABELS)


def change(corpus: Path, target: Path, **tables: pd.DataFrame) -> Corpus:
    """A copy of a corpus with other tables."""
    shutil.copytree(corpus, target)
    for name, table in tables.items():
        table.to_csv(target / f"{name}.csv", index=False)
    return Corpus(target)


# ---- clips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weakcnn", "windowed-cnn"])
def test_clip_metrics_equal_those_of_clips_scored_alone(name: str, tones: Path) -> None:
    corpus, net = Corpus(tones), model(name)
    where = corpus.select({"split": "test"})
    with torch.no_grad():
        scores = [net(torch.from_numpy(corpus.store.audio(n))[None]).clip_probs[0].numpy() for n in where]
    targets = corpus.targets(where)
    found = evaluate(net, corpus, batch_seconds=10)
    assert found.clip == pytest.approx(tagging_metrics(targets, np.stack(scores)))
    expected = per_class_metrics(targets, np.stack(scores))
    pd.testing.assert_frame_equal(found.per_class[list(expected)], expected)
    assert list(found.per_class["class"]) == LABELS
    assert found.clip.n_clips == 12
    assert found.audio_seconds == pytest.approx(corpus.store.n_samples[where].sum() / RATE)
    assert found.seconds > 0


def test_paths_are_accepted_in_place_of_model_and_corpus(tones: Path, tmp_path: Path) -> None:
    save_model(model(), tmp_path / "model.safetensors")
    found = weakaudio.evaluate(tmp_path / "model.safetensors", tones)
    assert found.clip == evaluate(model(), Corpus(tones)).clip


@pytest.mark.parametrize("name", ["weakcnn", "windowed-cnn"])
def test_the_batch_size_does_not_matter(name: str, tones: Path) -> None:
    a, b = (evaluate(model(name), Corpus(tones), batch_seconds=seconds) for seconds in (1.0, 100.0))
    assert (a.clip, a.segment, a.event, a.psds) == (b.clip, b.segment, b.event, b.psds)
    pd.testing.assert_frame_equal(a.per_class, b.per_class, rtol=1e-5)


# ---- localisation ----------------------------------------------------------------------------------------


def segments(corpus: Corpus, net: Model, split: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and truth (segments of 1 s, classes), by a loop over clips, seconds and frames."""
    scores, truth = [], []
    events = corpus.events()
    for n in corpus.select({"split": split}):
        audio, own = corpus.store.audio(n), events[events["path"] == corpus.store.keys[n]]
        with torch.no_grad():
            probs = net(torch.from_numpy(audio)[None]).segment_logits[0].sigmoid().numpy()
        frames, edges = timeline(probs, net.segment_times(len(audio)))
        for second in range(math.ceil(len(audio) / RATE)):
            inside = (edges[:-1] < second + 1) & (edges[1:] > second)
            scores.append(frames[inside].max(0))
            hits = own[(own["onset"] < second + 1) & (own["offset"] > second)]
            truth.append([label in set(hits["label"]) for label in LABELS])
    return np.array(scores), np.array(truth)


def f1(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn)


def counts(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[int, int, int]:
    return int((found & truth).sum()), int((found & ~truth).sum()), int((~found & truth).sum())


@pytest.mark.parametrize("name", ["weakcnn", "windowed-cnn"])
def test_segment_f1_equals_a_plain_loop_at_the_best_thresholds_on_validation(name: str, tones: Path) -> None:
    corpus, net = Corpus(tones), model(name)
    found = evaluate(net, corpus)
    assert found.segment is not None
    val, test = (segments(corpus, net, split) for split in ("val", "test"))
    each = []
    for k in range(2):
        threshold = found.per_class["segment_threshold"][k]
        best = max(f1(*counts(val[0][:, k] >= score, val[1][:, k])) for score in val[0][:, k])
        assert f1(*counts(val[0][:, k] > threshold, val[1][:, k])) == pytest.approx(best)
        each.append(counts(test[0][:, k] > threshold, test[1][:, k]))
        assert found.per_class["segment_f1"][k] == pytest.approx(f1(*each[k]))
    assert found.segment.macro.f1 == pytest.approx(np.mean([f1(*part) for part in each]))
    assert found.segment.micro.f1 == pytest.approx(f1(*np.sum(each, axis=0)))
    assert found.segment.n_classes == 2


def test_a_tone_detector_locates_the_tones(tone_detector: Model, tones: Path, tmp_path: Path) -> None:
    found = evaluate(tone_detector, Corpus(tones))
    assert found.segment is not None
    assert found.event is not None
    assert found.clip.mean_ap > 0.99
    assert found.segment.macro.f1 > 0.9
    assert found.event.macro.f1 > 0.6
    assert found.psds is not None
    assert found.psds.scenario1 > 0.6
    assert found.psds.scenario2 > 0.9
    late = pd.read_csv(tones / "events.csv")
    late[["onset", "offset"]] += 2.0
    moved = evaluate(tone_detector, change(tones, tmp_path / "late", events=late))
    assert moved.segment is not None
    assert moved.segment.macro.f1 < 0.6
    assert moved.psds is not None
    assert moved.psds.scenario1 < found.psds.scenario1 - 0.3


def test_thresholds_do_not_depend_on_test_labels(tone_detector: Model, tones: Path, tmp_path: Path) -> None:
    events = pd.read_csv(tones / "events.csv")
    test = events["path"].isin([f"{n}.wav" for n in range(24, 36)])
    events.loc[test, "label"] = events.loc[test, "label"].map(dict(zip(LABELS, LABELS[::-1], strict=True)))
    honest = evaluate(tone_detector, Corpus(tones)).per_class
    other = evaluate(tone_detector, change(tones, tmp_path / "c", events=events)).per_class
    for column in ("segment_threshold", "event_threshold"):
        assert list(honest[column]) == list(other[column])
    assert (other["segment_f1"] < honest["segment_f1"]).all()


def test_classes_without_events_to_choose_a_threshold_are_left_out(
    tone_detector: Model, tones: Path, tmp_path: Path
) -> None:
    events = pd.read_csv(tones / "events.csv")
    val = events["path"].isin([f"{n}.wav" for n in range(12, 24)])
    corpus = change(tones, tmp_path / "c", events=events[~(val & (events["label"] == "onset"))])
    found = evaluate(tone_detector, corpus)
    assert found.segment is not None
    assert found.segment.n_classes == 1
    assert np.isnan(found.per_class["segment_f1"][0])
    assert found.segment.macro == found.segment.micro
    assert found.segment.macro.f1 == found.per_class["segment_f1"][1]
    whole = evaluate(tone_detector, Corpus(tones))
    assert found.psds == whole.psds  # needs no threshold
    assert found.psds is not None
    assert found.psds.n_classes == 2


def test_psds_needs_no_thresholds(tone_detector: Model, tones: Path) -> None:
    whole = evaluate(tone_detector, Corpus(tones))
    alone = evaluate(tone_detector, Corpus(tones), thresholds_from=None)
    assert alone.psds == whole.psds
    assert (alone.segment, alone.event) == (None, None)
    assert list(alone.per_class)[-2:] == ["psds1", "psds2"]
    assert not any(title.startswith(("segment", "event")) for title in alone.per_class)
    pd.testing.assert_frame_equal(alone.per_class, whole.per_class[list(alone.per_class)])


def test_psds_is_none_without_events_in_the_clips(tones: Path, tmp_path: Path) -> None:
    events = pd.read_csv(tones / "events.csv")
    train = events["path"].isin([f"{n}.wav" for n in range(12)])
    found = evaluate(model(), change(tones, tmp_path / "c", events=events[train]), thresholds_from=None)
    assert found.psds is None
    assert not {"psds1", "psds2"} & set(found.per_class)


def test_a_single_class_with_events_has_no_cross_triggers(tone_detector: Model, tones: Path, tmp_path: Path) -> None:
    events = pd.read_csv(tones / "events.csv")
    one = change(tones, tmp_path / "c", events=events[events["label"] == "onset"])
    found = evaluate(tone_detector, one).psds
    assert found is not None
    assert found.n_classes == 1
    assert found.scenario2 > 0.9


def test_class_names_do_not_matter(tone_detector: Model, tones: Path, tmp_path: Path) -> None:
    # the first is a column of sed_scores_eval, the second separates names there
    names = dict(zip(LABELS, ["offset", "a\\b"], strict=True))
    old = Corpus(tones)
    with StoreWriter(tmp_path / STORE, RATE) as writer:
        for n, key in enumerate(old.store.keys):
            writer.add(key, old.store.audio(n), [names[label] for label in old.store.labels[n]])
    for path, column in ((MANIFEST, "labels"), (EVENTS, "label")):
        table = pd.read_csv(tones / path, keep_default_na=False)
        table[column] = [";".join(names[label] for label in cell.split(";") if label) for cell in table[column]]
        table.to_csv(tmp_path / path, index=False)
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in names.values()))
    renamed = Model(tone_detector.network, "16k", list(names.values()))
    found, other = evaluate(tone_detector, old), evaluate(renamed, Corpus(tmp_path))
    for kind in ("clip", "segment", "event", "psds"):
        assert getattr(found, kind) == getattr(other, kind)
    pd.testing.assert_frame_equal(found.per_class.drop(columns="class"), other.per_class.drop(columns="class"))


def test_overlapping_events_of_a_class_are_merged(tone_detector: Model, tones: Path, tmp_path: Path) -> None:
    events = pd.read_csv(tones / "events.csv")
    halves = events.assign(onset=(2 * events["onset"] + events["offset"]) / 3)
    doubled = change(tones, tmp_path / "c", events=pd.concat([events, halves]))
    found, expected = evaluate(tone_detector, doubled), evaluate(tone_detector, Corpus(tones))
    assert (found.event, found.psds) == (expected.event, expected.psds)


def test_without_strong_labels_only_clips_are_measured(tones: Path, tmp_path: Path) -> None:
    shutil.copytree(tones, tmp_path / "weak", ignore=shutil.ignore_patterns("events.csv"))
    found = evaluate(model(), Corpus(tmp_path / "weak"), thresholds_from={"split": "nothing"})
    assert (found.segment, found.event, found.psds) == (None, None, None)
    assert (
        found.clip
        == evaluate(model(), Corpus(tones)).clip
        == evaluate(model(), Corpus(tones), thresholds_from=None).clip
    )


# ---- errors -------------------------------------------------------------------------------------


def test_measuring_the_clips_that_choose_thresholds_is_refused(tones: Path) -> None:
    with pytest.raises(ProtocolError, match=r"12 clips are in .*judged by the clips that chose them"):
        evaluate(model(), Corpus(tones), where={"split": ["val", "test"]})


def test_thresholds_without_events_are_refused(tones: Path, tmp_path: Path) -> None:
    events = pd.read_csv(tones / "events.csv")
    train = events["path"].isin([f"{n}.wav" for n in range(12)])
    with pytest.raises(ProtocolError, match="no class has events both"):
        evaluate(model(), change(tones, tmp_path / "c", events=events[train]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[::-1], "class 0 is 'macro_average' in the model and 'onset' in the corpus"),
        (["onset", "rain"], "class 1 is 'rain' in the model and 'macro_average' in the corpus"),
        (["onset"], "its 2 classes are not the model's 1 in order"),
    ],
)
def test_different_classes_are_refused_by_name(labels: list[str], message: str, tones: Path) -> None:
    network = build_network("weakcnn", n_classes=len(labels), n_mels=64, width=0.0625)
    with pytest.raises(LabelError, match=message):
        evaluate(Model(network, "16k", labels), Corpus(tones))


def test_a_different_sample_rate_is_refused(tones: Path) -> None:
    network = build_network("weakcnn", n_classes=2, n_mels=128, width=0.0625)
    with pytest.raises(ProtocolError, match=r"clips at 16000 Hz, the model's front end takes 32000 Hz"):
        evaluate(Model(network, "32k", LABELS), Corpus(tones))


def test_a_split_that_does_not_exist_is_refused(tones: Path) -> None:
    with pytest.raises(ManifestError, match="no clip with"):
        evaluate(model(), Corpus(tones), where={"split": "nothing"})


# ---- files -------------------------------------------------------------------------------------


def strict(path: Path) -> dict[str, object]:
    """JSON without the NaN and Infinity that JSON does not have."""
    content: dict[str, object] = json.loads(path.read_text(), parse_constant=pytest.fail)
    return content


def test_equal_evaluations_write_equal_files(tones: Path, tmp_path: Path) -> None:
    found = evaluate(model(), Corpus(tones))
    for folder in ("a", "b"):
        evaluate(model(), Corpus(tones)).save(tmp_path / folder)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["metrics.json", "per_class.csv"]
    for name in ("metrics.json", "per_class.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    content = strict(tmp_path / "a" / "metrics.json")
    assert found.segment is not None
    assert content["clip"] == pytest.approx(found.clip._asdict())
    segment = found.segment
    assert content["segment"] == {"micro": segment.micro.f1, "macro": segment.macro.f1, "n_classes": 2}
    assert found.psds is not None
    assert content["psds"] == pytest.approx(found.psds._asdict())
    assert content["model"] == model_checksum(model())
    assert (content["where"], content["thresholds_from"]) == ({"split": "test"}, {"split": "val"})
    table = pd.read_csv(tmp_path / "a" / "per_class.csv")
    pd.testing.assert_frame_equal(table, found.per_class, rtol=1e-12)


def test_infinite_and_missing_metrics_are_null(tone_detector: Model, tones: Path, tmp_path: Path) -> None:
    found = evaluate(tone_detector, Corpus(tones), thresholds_from=None)
    replace(found, clip=found.clip._replace(d_prime=math.inf), psds=None).save(tmp_path)
    content = strict(tmp_path / "metrics.json")
    assert content["clip"]["d_prime"] is None  # type: ignore[index]
    assert (content["segment"], content["psds"], content["thresholds_from"]) == (None, None, None)
