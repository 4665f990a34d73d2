"""The report of a run is complete and self-contained, and names from files cannot inject markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from weakaudio.errors import WeakAudioError
from weakaudio.reports.event_page import MAX_FAILURES, Excerpt, event_page, write_event_page

EVIL = "</script><img src=x onerror=alert(1)><!--<script>&amp;\u2028"


def events_of(n: int, files: list[str], labels: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 3500, n)
    return pd.DataFrame(
        {
            "file": rng.choice(files, n),
            "start": start,
            "end": start + rng.uniform(0.1, 20, n),
            "label": rng.choice(labels, n),
            "score": rng.random(n),
        }
    )


def recordings_of(files: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"file": files, "seconds": 3600.0})


def excerpt(sample_rate: int = 16000, seconds: float = 2.0) -> Excerpt:
    """Rising tone, with a log-mel that is loud in its lowest bands only."""
    t = np.arange(round(sample_rate * seconds)) / sample_rate
    audio = (0.5 * t / seconds * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    logmel = np.full((200, 64), -80.0, np.float32)
    logmel[:, :8] = -10
    return Excerpt(audio, sample_rate, 3.0, logmel, np.array([0.25, 0.75]), np.array([3.0, 4.0, 5.0]))


FILES, LABELS = ["a/one.wav", "two.wav"], ["dog", "bell"]
EVENTS, RECORDINGS = events_of(10, FILES, LABELS), recordings_of(FILES)


class _Reader(HTMLParser):
    """Tags, texts, and the contents of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and self.cdata_elem:
            tag, attributes, text = self.inside[-1]
            self.inside[-1] = (tag, attributes, text + data)
        else:
            self.text.append(data)

    def json(self, name: str = "data") -> Any:
        (text,) = [text for _, attributes, text in self.inside if attributes.get("id") == name]
        return json.loads(text)

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


def shown(html: str) -> pd.DataFrame:
    """The events as the page's script reads them."""
    data = _Reader(html).json()
    return pd.DataFrame(
        {
            "file": [data["files"][n] for n in data["file"]],
            "start": data["start"],
            "end": data["end"],
            "label": [data["labels"][n] for n in data["label"]],
            "score": data["score"],
        }
    )


def test_the_page_has_every_event() -> None:
    table = shown(event_page(EVENTS, RECORDINGS, [], {}))
    pd.testing.assert_frame_equal(table, EVENTS.round({"start": 3, "end": 3, "score": 6}), check_dtype=False)


def test_the_policy_allows_only_the_script_and_style_of_the_page() -> None:
    reader = _Reader(event_page(EVENTS, RECORDINGS, [], {3: excerpt()}))
    (policy,) = [a["content"] or "" for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == rules["media-src"] == "data:"
    running = [(tag, text) for tag, a, text in reader.inside if a.get("type") != "application/json"]
    assert [tag for tag, _ in running] == ["style", "script"]
    for tag, text in running:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") or name == "style" for _, a in reader.tags for name in a)


def test_the_page_loads_nothing() -> None:
    html = event_page(EVENTS, RECORDINGS, [("b.wav", "broken")], {3: excerpt()})
    sources = [a[key] or "" for _, a in _Reader(html).tags for key in a if key in ("src", "href", "action")]
    assert all(source.startswith("data:") for source in sources)
    for way in ("http:", "https:", "url(", "@import", "fetch(", "XMLHttpRequest", "import("):
        assert way not in html
    assert {"iframe", "object", "embed", "form", "base"} & set(_Reader(html).names()) == set()


def test_names_are_inserted_as_text() -> None:
    def tags_and_data(name: str) -> tuple[list[str], _Reader]:
        events = EVENTS.assign(file=name, label=name)
        html = event_page(events, recordings_of([name]), [(name, name)], {0: excerpt()}, title=name)
        reader = _Reader(html)
        return reader.names(), reader

    tame, _ = tags_and_data("name")
    wild, reader = tags_and_data(EVIL)
    assert wild == tame
    assert reader.json()["files"] == reader.json()["labels"] == [EVIL]
    assert reader.text.count(EVIL) == 4  # title, heading, path and reason of the failure


def test_the_script_writes_no_markup() -> None:
    (script,) = [
        text for tag, a, text in _Reader(event_page(EVENTS, RECORDINGS, [], {})).inside if tag == "script" and not a
    ]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in script


@given(st.text(st.characters(), max_size=30))  # including lone surrogates, as in names that are not UTF-8
def test_any_name_can_be_written(name: str) -> None:
    html = event_page(EVENTS.assign(file=name, label=name), recordings_of([name]), [(name, name)], {}, title=name)
    html.encode("utf-8")
    assert _Reader(html).json()["files"] == [name]


def test_twenty_thousand_events_are_a_megabyte_of_data_and_no_elements() -> None:
    few = event_page(EVENTS, RECORDINGS, [], {})
    many = event_page(events_of(20_000, FILES, LABELS), RECORDINGS, [], {})
    assert len(many) - len(few) < 1e6
    assert _Reader(many).names() == _Reader(few).names()


def test_a_page_without_events_reports_the_audio_analysed() -> None:
    reader = _Reader(event_page(EVENTS[:0], RECORDINGS, [], {}))
    assert reader.json()["start"] == []
    text = [t for t in reader.text if t.strip()]
    at = text.index("recordings")
    assert text[at - 1 : at + 5] == ["2", "recordings", "2.0", "hours of audio", "0", "events"]


def test_numbers_at_the_top() -> None:
    text = [t for t in _Reader(event_page(EVENTS, RECORDINGS, [("b.wav", "broken")], {})).text if t.strip()]
    at = text.index("recordings") - 1
    assert text[at : at + 10] == [
        *("2", "recordings", "2.0", "hours of audio", "10", "events", "2", "classes detected"),
        *("1", "recording not analysed"),
    ]


def test_failures_are_counted_and_listed_up_to_a_limit() -> None:
    failures = [(f"{n}.wav", f"reason {n}") for n in range(MAX_FAILURES + 5)]
    reader = _Reader(event_page(EVENTS, RECORDINGS, failures, {}))
    reasons = [text for text in reader.text if text.startswith("reason ")]
    assert reasons == [reason for _, reason in failures[:MAX_FAILURES]]
    assert any("1,005 of 1,007" in t and "first 1,000" in t for t in reader.text)


@pytest.mark.parametrize(("rate", "kind"), [(16000, "audio/mpeg"), (44100, "audio/mpeg"), (250000, "audio/flac")])
def test_audio_of_an_excerpt_is_preserved(rate: int, kind: str) -> None:
    given_ = excerpt(rate)
    kept = _Reader(event_page(EVENTS, RECORDINGS, [], {7: given_})).json("excerpt-7")
    assert kept["type"] == kind
    audio, got_rate = sf.read(io.BytesIO(base64.b64decode(kept["audio"])), dtype="float32")
    assert (got_rate, audio.shape) == (rate, given_.audio.shape)
    assert np.corrcoef(audio, given_.audio)[0, 1] > 0.99  # same sound, no delay
    assert abs(audio).max() == pytest.approx(0.5, abs=0.05)


def test_times_and_scores_of_an_excerpt() -> None:
    reader = _Reader(event_page(EVENTS, RECORDINGS, [], {7: excerpt(), 2: excerpt()}))
    assert reader.json()["excerpts"] == [2, 7]
    kept = reader.json("excerpt-2")
    assert (kept["start"], kept["seconds"]) == (3.0, 2.0)
    assert (kept["scores"], kept["edges"]) == ([0.25, 0.75], [3.0, 4.0, 5.0])


def picture(logmel: np.ndarray) -> np.ndarray:
    """The log-mel as it is on the page: (F, columns) brightness."""
    kept = _Reader(event_page(EVENTS, RECORDINGS, [], {0: excerpt()._replace(logmel=logmel)})).json("excerpt-0")
    png = Image.open(io.BytesIO(base64.b64decode(kept["picture"])))
    assert png.format == "PNG"
    return np.asarray(png.convert("L")).astype(int)


def test_a_picture_has_time_from_the_left_and_low_frequencies_below() -> None:
    logmel = np.full((100, 64), -80.0)
    logmel[80:, :8] = 0
    image = picture(logmel)
    assert image.shape == (64, 100)
    loud = np.zeros((64, 100), bool)
    loud[-8:, 80:] = True
    assert image[loud].min() > image[~loud].max()


def test_a_long_picture_is_narrowed_without_losing_its_end() -> None:
    logmel = np.full((6001, 64), -80.0)
    logmel[-12:] = 0
    image = picture(logmel)
    assert image.shape[1] <= 600
    assert image[:, -1].min() > image[:, :-4].max()


@pytest.mark.parametrize("logmel", [np.zeros((5, 4)), np.full((1, 1), -np.inf), np.full((3, 64), np.nan)])
def test_silence_has_a_picture(logmel: np.ndarray) -> None:
    assert picture(logmel).shape == logmel.T.shape


@pytest.mark.parametrize(
    ("begin", "seconds"),
    [
        ("1970-01-02T00:00:10", 86410.0),
        ("1970-01-02 00:00:10+02:00", 86410.0),  # time zone ignored
        ("1970-01-02T00:00:10Z", 86410.0),
        (pd.Timestamp("1970-01-02 00:00:10.5"), 86410.5),
        (None, None),
        (float("nan"), None),
        (pd.NaT, None),
    ],
)
def test_begins_become_clock_times(begin: object, seconds: float | None) -> None:
    recordings = RECORDINGS.assign(begin=pd.Series([begin, None], dtype=object))
    assert _Reader(event_page(EVENTS, recordings, [], {})).json()["begin"] == [seconds, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": EVENTS.drop(columns="score")}, "events: no column 'score'"),
        ({"events": EVENTS.assign(score=[0.5] * 9 + [np.nan])}, "events, row 9: score is nan"),
        ({"events": EVENTS.assign(end=np.inf)}, "events, row 0: end is inf"),
        ({"recordings": RECORDINGS[["file"]]}, "recordings: no column 'seconds'"),
        ({"recordings": recordings_of([*FILES, FILES[0]])}, "a/one.wav is listed twice"),
        ({"recordings": recordings_of(["two.wav"])}, "a/one.wav is not among the recordings"),
        ({"recordings": RECORDINGS.assign(begin="yesterday evening")}, "a/one.wav: begin 'yesterday evening'"),
        ({"excerpts": {10: excerpt()}}, "excerpt of event 10: there are 10 events"),
        ({"excerpts": {-1: excerpt()}}, "excerpt of event -1"),
        ({"excerpts": {0: excerpt()._replace(audio=np.zeros(0, np.float32))}}, r"audio of shape \(0,\)"),
        ({"excerpts": {0: excerpt()._replace(audio=np.zeros((9, 2), np.float32))}}, r"audio of shape \(9, 2\)"),
        ({"excerpts": {0: excerpt()._replace(logmel=np.zeros((0, 64)))}}, r"log-mel of shape \(0, 64\)"),
        ({"excerpts": {0: excerpt()._replace(edges=np.array([3.0, 4.0]))}}, "2 scores and 2 edges"),
    ],
)
def test_inconsistent_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"events": EVENTS, "recordings": RECORDINGS, "failures": [], "excerpts": {}}
    with pytest.raises(WeakAudioError, match=message):
        event_page(**{**arguments, **changes})


def test_writing_creates_folders_and_leaves_no_part_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_event_page(path, EVENTS, RECORDINGS, [], {1: excerpt()}, title="Night é")
    first = path.read_bytes()
    write_event_page(path, EVENTS, RECORDINGS, [], {1: excerpt()}, title="Night é")
    assert path.read_bytes() == first  # reproducible
    assert re.search("<h1>Night é</h1>", first.decode("utf-8"))
    assert list(path.parent.iterdir()) == [path]
