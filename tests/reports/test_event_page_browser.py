"""The report of a run in a browser: sorting, filters, playback; no requests, no console messages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from weakaudio.reports.event_page import Excerpt, write_event_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 300_000  # milliseconds, generous for busy machines
playwright.expect.set_options(timeout=TIMEOUT)

N_EVENTS = 130
LABELS = ["Owl", "Dog", "Rain", "Bell 10", "Bell 9"]
FILES = ["site/night 2.wav", "site/night 10.wav", "dawn.wav"]
EVIL = "</script><img src=x onerror='window.evil=1'><b>bold</b>" + "long" * 30


def make_events() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    start = np.sort(rng.uniform(0, 3500, N_EVENTS))
    return pd.DataFrame(
        {
            "file": rng.choice(FILES, N_EVENTS),
            "start": start,
            "end": start + rng.uniform(1, 90, N_EVENTS),
            "label": rng.choice(LABELS, N_EVENTS, p=[0.4, 0.3, 0.15, 0.1, 0.05]),
            "score": rng.permutation(np.linspace(0.3, 0.999, N_EVENTS)),
        }
    )


EVENTS = make_events()
RECORDINGS = pd.DataFrame({"file": FILES, "seconds": 3600.0})
BEST = int(EVENTS["score"].idxmax())
SECOND = int(EVENTS["score"].nlargest(2).index[1])


def excerpt(row: int, sample_rate: int = 16000) -> Excerpt:
    t = np.arange(3 * sample_rate) / sample_rate
    start = float(EVENTS["start"][row])
    edges = start + np.linspace(0, 3, 7)
    return Excerpt(
        np.sin(2 * np.pi * 440 * t).astype(np.float32) / 4,
        sample_rate,
        start,
        np.random.default_rng(0).normal(size=(300, 64)),
        np.array([0.0, 0.2, 0.6, 1.0, 0.4, 0.1]),
        edges,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        started = driver.chromium.launch(executable_path=path, args=options, timeout=TIMEOUT)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open a page of `write_event_page`; fails at the end on any request or console message."""
    said: list[str] = []
    opened = []

    def open_(
        events: pd.DataFrame = EVENTS,
        recordings: pd.DataFrame = RECORDINGS,
        failures: list[tuple[str, str]] | None = None,
        excerpts: dict[int, Excerpt] | None = None,
        width: int = 1280,
    ) -> Any:
        path = tmp_path / "report.html"
        write_event_page(path, events, recordings, failures or [], excerpts or {}, title="A run")
        page = browser.new_page(viewport={"width": width, "height": 900}, device_scale_factor=2)
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        opened.append(page)
        assert said == [f"request: {path.as_uri()}"]
        said.clear()
        return page

    yield open_
    for page in opened:
        page.close()
    assert [line[:200] for line in said if not line.startswith("request: data:")] == []


def column(page: Any, name: str) -> list[str]:
    return page.locator(f"#body td.{name}").all_inner_texts()  # type: ignore[no-any-return]


def n_shown(page: Any, n: int, total: int = N_EVENTS) -> None:
    """Wait until the page shows `n` events."""
    text = f"{n} of {total} events" if n else "No events match the filters."
    playwright.expect(page.locator("#status")).to_have_text(text)


def wait_for(page: Any, condition: str) -> None:
    """Poll a condition; Playwright's own function needs `eval`, which the policy of the page forbids."""
    for _ in range(TIMEOUT // 50):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def seconds(text: str) -> float:
    minutes, rest = text.split(":")
    return 60 * int(minutes) + float(rest)


def test_the_best_events_come_first_and_pages_draw_their_rows_only(open_page: Any) -> None:
    page = open_page()
    scores = EVENTS["score"].sort_values(ascending=False).map("{:.3f}".format).tolist()
    assert column(page, "score") == scores[:50]
    page.click("#next")
    assert column(page, "score") == scores[50:100]
    page.click("#last")
    assert column(page, "score") == scores[100:]
    assert page.inner_text("#page") == "Page 3 of 3"
    assert page.is_disabled("#next")


def test_a_click_on_a_heading_sorts_and_a_second_one_reverses(open_page: Any) -> None:
    page = open_page()
    for name in ("start", "end"):
        for order, descending in (("ascending", False), ("descending", True)):
            page.click(f"[data-column={name}] button")
            shown = [seconds(text) for text in column(page, name)]
            np.testing.assert_allclose(shown, sorted(EVENTS[name], reverse=descending)[:50], atol=0.006)
            sorts = {
                head.get_attribute("data-column"): head.get_attribute("aria-sort")
                for head in page.locator("#head th").all()
            }
            assert sorts == dict.fromkeys(sorts, "none") | {name: order}


def test_numbers_in_names_sort_numerically(open_page: Any) -> None:
    page = open_page()
    page.click("[data-column=file] button")
    page.click("#last")
    assert column(page, "file")[-1] == "site/night 10.wav"
    page.click("[data-column=label] button")
    assert list(dict.fromkeys(text.strip() for text in column(page, "label")))[:2] == ["Bell 9", "Bell 10"]


def test_filters_by_text_class_and_score_together(open_page: Any) -> None:
    page = open_page()
    page.fill("#text", "NIGHT 1")
    in_file = EVENTS["file"] == "site/night 10.wav"
    n_shown(page, in_file.sum())
    page.select_option("#label", label=f"Owl ({(EVENTS['label'] == 'Owl').sum()})")
    owls = in_file & (EVENTS["label"] == "Owl")
    n_shown(page, owls.sum())
    page.fill("#score", "0.7")
    kept = owls & (EVENTS["score"] >= 0.7)
    assert 0 < kept.sum() < owls.sum()
    n_shown(page, kept.sum())
    assert {text.strip() for text in column(page, "label")} == {"Owl"}
    assert set(column(page, "file")) == {"site/night 10.wav"}
    page.fill("#text", "no such name")
    n_shown(page, 0)
    page.click("#clear")
    playwright.expect(page.locator("#status")).to_have_text(f"{N_EVENTS} events")
    assert page.input_value("#text") == ""


def test_text_finds_classes_too(open_page: Any) -> None:
    page = open_page()
    page.fill("#text", "bell")
    n_shown(page, EVENTS["label"].str.startswith("Bell").sum())


def test_a_click_on_an_event_shows_it_and_another_one_hides_it(open_page: Any) -> None:
    page = open_page(excerpts={BEST: excerpt(BEST)})
    row = page.locator("#body tr[data-row]").first
    row.click()
    playwright.expect(page.locator(".panel")).to_have_count(1)
    wait_for(page, "document.querySelector('.panel img').naturalWidth === 300")
    curve = page.locator(".curve").get_attribute("d")
    assert curve.count("H") == 6
    heights = [float(piece.split(" ")[1].split("H")[0]) for piece in curve.replace("L", "M").split("M")[1:]]
    np.testing.assert_allclose(heights, 98 - 96 * np.array([0.0, 0.2, 0.6, 1.0, 0.4, 0.1]))
    assert EVENTS["file"][BEST] in page.inner_text(".panel figcaption")
    row.click()
    playwright.expect(page.locator(".panel")).to_have_count(0)


def test_the_keyboard_opens_and_closes_an_event(open_page: Any) -> None:
    page = open_page(excerpts={BEST: excerpt(BEST)})
    button = page.locator("#body button").first
    button.focus()
    page.keyboard.press("Enter")
    playwright.expect(button).to_have_attribute("aria-expanded", "true")
    playwright.expect(button).to_be_focused()
    page.keyboard.press("Space")
    playwright.expect(button).to_have_attribute("aria-expanded", "false")


def test_an_event_without_an_excerpt_is_reported(open_page: Any) -> None:
    page = open_page(excerpts={SECOND: excerpt(SECOND)})
    page.locator("#body tr[data-row]").first.click()
    said = page.inner_text(".panel")
    assert "no excerpt" in said
    assert EVENTS["file"][BEST] in said
    assert page.locator(".panel audio").count() == 0
    page.check("#kept")
    n_shown(page, 1)
    assert page.locator("#body tr").get_attribute("data-row") == str(SECOND)


@pytest.mark.parametrize("rate", [16000, 96000])  # MP3 and FLAC
def test_an_excerpt_plays(open_page: Any, rate: int) -> None:
    page = open_page(excerpts={BEST: excerpt(BEST, rate)})
    page.locator("#body tr[data-row]").first.click()
    wait_for(page, "document.querySelector('audio').readyState >= 3")
    assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(3, abs=0.1)
    page.evaluate("document.querySelector('audio').play()")
    wait_for(page, "document.querySelector('audio').currentTime > 0.1")
    box = page.locator(".picture").bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 20)  # seeks to the click
    assert page.evaluate("document.querySelector('audio').currentTime") >= 2.6
    wait_for(page, "document.querySelector('audio').ended")


def test_a_click_on_a_class_of_the_timeline_filters(open_page: Any) -> None:
    page = open_page()
    counts = EVENTS["label"].value_counts()
    names = page.locator("#names button")
    assert [text.split("\n")[0] for text in names.all_inner_texts()] == counts.index.tolist()
    names.first.click()
    n_shown(page, counts.iloc[0])
    names.first.click()
    playwright.expect(page.locator("#status")).to_have_text(f"{N_EVENTS} events")


def test_a_click_on_a_time_filters(open_page: Any) -> None:
    """Recordings of an hour follow one another: 0:30:00 to 1:00:00 is the second half of the first one."""
    page = open_page()
    page.get_by_role("button", name="30:00 – 1:00:00", exact=True).click()  # noqa: RUF001 (a dash on purpose)
    begin = EVENTS["start"] + 3600 * EVENTS["file"].map(FILES.index)
    end = begin + EVENTS["end"] - EVENTS["start"]
    n_shown(page, ((begin < 3600) & (end > 1800)).sum())
    page.click("#interval")
    playwright.expect(page.locator("#status")).to_have_text(f"{N_EVENTS} events")


def test_a_click_into_the_timeline_filters_by_class_and_time(open_page: Any) -> None:
    events = pd.DataFrame(
        {
            "file": "a.wav",
            "start": [5.0, 45.0, 47.0],
            "end": [6.0, 46.0, 48.0],
            "label": ["x", "x", "y"],
            "score": 0.5,
        }
    )
    page = open_page(events, pd.DataFrame({"file": ["a.wav"], "seconds": [60.0]}))
    box = page.locator("#canvas").bounding_box()
    page.mouse.click(box["x"] + 45.5 / 60 * box["width"], box["y"] + 5)
    n_shown(page, 1, 3)
    assert column(page, "start") == ["0:45.00"]


def test_events_are_drawn_where_they_are(open_page: Any) -> None:
    events = pd.DataFrame(
        {"file": "a.wav", "start": [15.0], "end": [30.0], "label": ["x"], "score": [0.5]}
    )  # the second quarter
    page = open_page(events, pd.DataFrame({"file": ["a.wav"], "seconds": [60.0]}))
    drawn = page.evaluate(
        """() => { const c = document.getElementById("canvas");
        const line = c.getContext("2d").getImageData(0, c.height / 2, c.width, 1).data;
        const colour = (at) => line.slice(4 * at, 4 * at + 4).join();
        return [0.05, 0.3, 0.45, 0.55, 0.9].map((part) => colour(Math.round(part * c.width)));
        }"""
    )
    assert drawn[0] == drawn[3] == drawn[4]
    assert drawn[1] == drawn[2] == "0,114,178,255"


def test_clock_times_and_events_across_midnight(open_page: Any) -> None:
    recordings = RECORDINGS.assign(begin=["2024-05-01T23:30:00", "2024-05-04T05:00:00+02:00", None])
    events = pd.DataFrame(
        {
            "file": [FILES[0], FILES[0], FILES[1], FILES[2]],
            "start": [60.0, 1795.0, 60.0, 60.0],
            "end": [61.0, 1805.0, 61.0, 61.0],
            "label": "x",
            "score": [0.9, 0.8, 0.7, 0.6],
        }
    )
    page = open_page(events, recordings)
    unknown = "–"  # noqa: RUF001
    assert column(page, "clock") == ["2024-05-01 23:31:00", "2024-05-01 23:59:55", "2024-05-04 05:01:00", unknown]
    assert page.input_value("#axis") == "day"  # spans several days
    assert "1 recording" in page.inner_text("#which")
    ticks = page.locator("#ticks button")
    ticks.last.click()
    n_shown(page, 2, 4)  # before midnight
    ticks.first.click()
    n_shown(page, 1, 4)  # across midnight
    page.select_option("#axis", "date")
    playwright.expect(page.locator("#status")).to_have_text("4 events")
    page.click("[data-column=clock] button")
    page.click("[data-column=clock] button")
    assert column(page, "clock")[-1] == unknown  # last in both directions


def test_names_are_not_interpreted(open_page: Any) -> None:
    events = EVENTS.assign(file=EVIL, label=EVIL)
    page = open_page(
        events, pd.DataFrame({"file": [EVIL], "seconds": [3600.0]}), [(EVIL, EVIL)], {BEST: excerpt(BEST)}
    )
    page.locator("#body tr[data-row]").first.click()
    page.hover("#canvas")
    assert column(page, "file")[0] == EVIL
    assert page.evaluate("[window.evil, document.querySelectorAll('b').length]") == [None, 0]
    assert page.locator("img").count() == 1


@pytest.mark.parametrize("width", [1280, 390, 360])
def test_nothing_is_wider_than_the_screen(open_page: Any, width: int) -> None:
    events = EVENTS.assign(file=EVIL, label=EVIL)
    recordings = pd.DataFrame({"file": [EVIL], "seconds": [3600.0], "begin": ["2024-05-01T04:30:00"]})
    page = open_page(events, recordings, [(EVIL, EVIL)], {BEST: excerpt(BEST)}, width)
    page.locator("#body tr[data-row]").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_run_without_events_is_reported(open_page: Any) -> None:
    page = open_page(EVENTS[:0])
    assert "No events were detected." in page.inner_text("main")
    assert not page.is_visible("#timeline")


def test_the_policy_stops_any_other_script(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_event_page(path, EVENTS, RECORDINGS, [], {})
    html = path.read_text(encoding="utf-8")
    path.write_text(html.replace("<h1>", "<script>window.evil = 1</script><h1>"), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.evil") is None
    assert page.locator("#body tr").count() == 50
    page.close()
