"""Figures show their data; a page is self-contained."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import librosa
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from weakaudio.audio.frontend import FRONT_ENDS
from weakaudio.audio.io import read_audio
from weakaudio.reports import figures
from weakaudio.reports.html import KeyNumbers, Picture, Section, Sound, Table, page, write_page

FRONT_END = FRONT_ENDS["16k"]
NO_EVENTS = pd.DataFrame({"label": [], "onset": [], "offset": []}).astype({"label": str})
EVENTS = pd.DataFrame({"label": ["dog", "bell", "dog"], "onset": [2.0, 1.0, 4.0], "offset": [3.0, 1.5, 4.5]})


def clip(seconds: float, n_classes: int, events: pd.DataFrame = NO_EVENTS, **options: int) -> Figure:
    """A clip of random scores; its classes are "dog", "bell", "class 2", ..."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, max(seconds - 0.64, 0.1), 0.64)
    times = np.minimum(np.stack([starts, starts + 1.28], axis=1), seconds)
    labels = ["dog", "bell", *(f"class {n}" for n in range(2, n_classes))][:n_classes]
    logmel = rng.normal(size=(FRONT_END.n_frames(int(seconds * FRONT_END.sample_rate)), FRONT_END.n_mels))
    return figures.clip_figure(
        logmel, FRONT_END, times, rng.random((len(times), n_classes)), labels, events, **options
    )


def rows_of(figure: Figure) -> list[str]:
    """Classes below a clip, from the top."""
    return [tick.get_text() for tick in reversed(figure.axes[1].get_yticklabels())]


def event_spans(figure: Figure) -> list[tuple[float, float]]:
    """Start and end of each bar below a clip, seconds."""
    bars = [c for c in figure.axes[1].collections if isinstance(c, PolyCollection)]
    times = [path.vertices[:, 0] for bar in bars for path in bar.get_paths()]
    return sorted((round(float(t.min()), 6), round(float(t.max()), 6)) for t in times)


def test_training_curves_show_the_logs() -> None:
    logs = {
        name: pd.DataFrame({"epoch": [1, 2, 3], "train_loss": losses, "val_mAP": [0.2, 0.5, 0.6]})
        for name, losses in (("N_S", [0.6, 0.4, 0.3]), ("SLAT", [0.7, 0.6, 0.5]))
    }
    figure = figures.training_curves(logs)
    loss, score = figure.axes
    assert [line.get_label() for line in loss.lines] == ["N_S", "SLAT"]
    for line, log in zip(loss.lines, logs.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), log[["epoch", "train_loss"]])
    for line, log in zip(score.lines, logs.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), log[["epoch", "val_mAP"]])
    assert (loss.get_ylabel(), score.get_ylabel(), score.get_xlabel()) == (
        "training loss",
        "validation mAP",
        "epoch",
    )
    assert score.get_ylim() == (0, 1)


def test_a_run_of_one_epoch_has_one_tick_there() -> None:
    log = pd.DataFrame({"epoch": [1], "train_loss": [0.6], "val_mAP": [0.2]})
    score = figures.training_curves({"N_S": log}).axes[1]
    low, high = score.get_xlim()
    assert [tick for tick in score.get_xticks() if low <= tick <= high] == [1]


def test_bars_of_each_class_and_system_with_prevalence() -> None:
    table = pd.DataFrame({"N_S": [0.5, 0.9], "SLAT": [0.4, 0.95], "prevalence": [0.1, 0.3]}, index=["dog", "bell"])
    (axes,) = figures.per_class_bars(table).axes
    assert [bar.get_width() for bars in axes.containers for bar in bars] == [0.5, 0.9, 0.4, 0.95]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dog", "bell"]  # the best on top
    marks = axes.collections[0].get_segments()
    assert [mark[0][0] for mark in marks] == [0.1, 0.3]
    assert (axes.get_xlim(), axes.get_xlabel()) == ((0, 1), "average precision")
    first, second = (container[0] for container in axes.containers)
    assert first.get_y() == pytest.approx(second.get_y() + second.get_height())  # in order from the top


def test_a_class_without_a_value_has_no_bar_and_comes_last() -> None:
    table = pd.DataFrame({"N_S": [np.nan, 0.9], "prevalence": [0.0, 0.3]}, index=["dog", "bell"])
    (axes,) = figures.per_class_bars(table).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dog", "bell"]


def test_bars_do_not_change_the_table() -> None:
    table = pd.DataFrame({"N_S": [0.9, 0.5], "prevalence": [0.1, 0.3]}, index=["dog", "bell"])
    before = table.copy()
    figures.per_class_bars(table)
    pd.testing.assert_frame_equal(table, before)


def test_clip_shows_true_classes_by_onset_and_then_the_highest_scores() -> None:
    figure = clip(5.0, 20, EVENTS)
    assert rows_of(figure)[:2] == ["bell", "dog"]
    assert len(rows_of(figure)) == 5
    assert event_spans(figure) == [(1.0, 1.5), (2.0, 3.0), (4.0, 4.5)]
    assert len(figure.axes[1].lines) == 5


def test_scores_of_a_clip_are_steps() -> None:
    times = np.array([[0.0, 1.28], [0.64, 1.92]])
    probs = np.array([[0.2], [0.6]])
    figure = figures.clip_figure(np.zeros((193, 64)), FRONT_END, times, probs, ["dog"], NO_EVENTS)
    (line,) = figure.axes[1].lines
    np.testing.assert_allclose(line.get_xdata(), [0.0, 0.64, 1.28, 1.92])
    np.testing.assert_allclose(line.get_ydata(), 0.9 * np.array([0.2, 0.4, 0.6, 0.6]))
    assert line.get_drawstyle() == "steps-post"


def test_axes_of_a_clip_are_seconds_and_hz() -> None:
    above, beneath = clip(5.0, 3).axes
    assert above.get_xlim() == beneath.get_xlim() == (0, 5.0)
    left, right, bottom, top = above.images[0].get_extent()
    assert (right - left) == pytest.approx(501 * 0.01)  # frames of 10 ms, the first one centred at 0
    assert (bottom, top) == (-0.5, 63.5)
    ticks = dict(zip((t.get_text() for t in above.get_yticklabels()), above.get_yticks(), strict=True))
    assert list(ticks) == ["500", "1,000", "2,000", "4,000"]
    centres = librosa.mel_frequencies(66, fmin=20.0, fmax=8000.0)[1:-1]
    assert abs(centres[round(ticks["2,000"])] - 2000) < 50
    assert (above.get_ylabel(), beneath.get_xlabel()) == ("frequency (Hz)", "time (s)")


@pytest.mark.parametrize(
    ("seconds", "n_classes", "events", "rows"),
    [
        (0.5, 3, NO_EVENTS, 3),  # one segment
        (1e-4, 1, NO_EVENTS, 1),  # shorter than a frame
        (5.0, 527, NO_EVENTS, 5),
        (5.0, 2, EVENTS, 2),
    ],
)
def test_clips_of_every_kind_can_be_drawn(seconds: float, n_classes: int, events: pd.DataFrame, rows: int) -> None:
    figure = clip(seconds, n_classes, events)
    assert len(rows_of(figure)) == len(figure.axes[1].lines) == rows
    assert "<img" in page("t", [Section("s", [Picture(figure, "c")])])


def test_all_true_classes_are_shown_also_if_they_are_more_than_most() -> None:
    assert rows_of(clip(5.0, 10, EVENTS, most=1)) == ["bell", "dog"]


class _Reader(HTMLParser):
    """Tags with their attributes, and text, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def html() -> str:
    table = pd.DataFrame({"class": ["dog", None], "AP": [0.12345, np.nan], "clips": [3, 12]})
    sound = Sound(np.linspace(-0.5, 0.5, 800, dtype=np.float32), 8000)
    blocks = [
        "a paragraph",
        KeyNumbers([("0.9", "mAP")]),
        Table(table, "numbers"),
        Picture(clip(2.0, 2), "a clip", sound),
    ]
    return page("a title", [Section("one", blocks), Section("two", [])])


def test_the_page_is_self_contained(html: str) -> None:
    tags = _Reader(html).tags
    names = [name for name, _ in tags]
    assert {"script", "link", "iframe", "object"} & set(names) == set()
    sources = [attributes[key] or "" for _, attributes in tags for key in attributes if key in ("src", "href")]
    assert len(sources) == 2
    assert all(source.startswith("data:") for source in sources)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in tags]


def test_figures_on_the_page_load_nothing(html: str) -> None:
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    links = [
        value
        for element in ElementTree.fromstring(base64.b64decode(image)).iter()
        for name, value in element.attrib.items()
        if name.endswith("href")
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)


def test_sounds_on_the_page_are_wav_files(html: str, tmp_path: Path) -> None:
    (sound,) = re.findall(r'src="data:audio/wav;base64,([^"]+)"', html)
    (tmp_path / "sound.wav").write_bytes(base64.b64decode(sound))
    audio, rate = read_audio(tmp_path / "sound.wav")
    assert rate == 8000
    np.testing.assert_allclose(audio, np.linspace(-0.5, 0.5, 800), atol=1e-4)


def test_tables_are_tables(html: str) -> None:
    reader = _Reader(html)
    assert [name for name, _ in reader.tags].count("tr") == 3
    text = [t for t in reader.text if t.strip()]
    start = text.index("numbers")
    assert text[start : start + 10] == ["numbers", "class", "AP", "clips", "dog", "0.123", "3", "–", "–", "12"]  # noqa: RUF001


def test_text_is_escaped() -> None:
    evil = '<script>alert("x")</script>&'
    table = pd.DataFrame({evil: [evil]})
    blocks = [evil, KeyNumbers([(evil, evil)]), Table(table, evil), Picture(clip(2.0, 1), evil)]
    html = page(evil, [Section(evil, blocks)])
    reader = _Reader(html)
    assert "script" not in [name for name, _ in reader.tags]
    assert reader.text.count(evil) == 10
    assert dict(reader.tags[[name for name, _ in reader.tags].index("img")][1])["alt"] == evil


def test_equal_content_gives_equal_bytes() -> None:
    def once() -> str:
        return page("t", [Section("s", [Picture(clip(3.0, 4, EVENTS), "c")])])

    assert once() == once()


def test_figures_do_not_change_the_settings_of_matplotlib() -> None:
    before = dict(mpl.rcParams)
    page("t", [Section("s", [Picture(clip(3.0, 4, EVENTS), "c")])])
    assert dict(mpl.rcParams) == before


def test_writing_creates_folders_and_leaves_no_part_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_page("<p>é</p>", path)
    write_page("<p>è</p>", path)
    assert path.read_text(encoding="utf-8") == "<p>è</p>"
    assert list(path.parent.iterdir()) == [path]
