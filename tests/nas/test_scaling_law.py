from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.errors import ManifestError, StoreError, WeakAudioError
from weakaudio.nas.scaling_law import (
    Law,
    best_ratio,
    fit_law,
    held_out_error,
    measure_grid,
    network_config,
    parameter_count,
)
from weakaudio.nas.scaling_report import law_figure, law_page
from weakaudio.networks import build_network

GRID = list(itertools.product((0.5, 1.0, 2.0, 3.0), (0.25, 0.5, 1.0, 2.0)))
DEPTH, WIDTH = (np.array(x) for x in zip(*GRID, strict=True))
TRUE = Law(floor=2.0, a=0.6, alpha=0.8, b=0.9, beta=0.5)

laws = st.builds(
    Law,
    floor=st.floats(0.5, 5.0),
    a=st.floats(0.3, 2.0),
    alpha=st.floats(0.3, 1.5),
    b=st.floats(0.3, 2.0),
    beta=st.floats(0.3, 1.5),
)


def parameters(law: Law) -> list[float]:
    return [law.floor, law.a, law.alpha, law.b, law.beta]


def test_prediction_is_the_formula() -> None:
    assert float(TRUE.predict(4.0, 0.25)) == pytest.approx(2 + 0.6 / 4**0.8 + 0.9 / 0.25**0.5)
    assert TRUE.predict(np.ones((3, 1)), np.ones(2)).shape == (3, 2)


@given(laws)
def test_a_law_is_found_again(law: Law) -> None:
    found = fit_law(DEPTH, WIDTH, law.predict(DEPTH, WIDTH))
    np.testing.assert_allclose(parameters(found), parameters(law), rtol=1e-3)


@given(laws, st.integers(0, 1000))
def test_noise_moves_predictions_no_further_than_itself(law: Law, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noisy = law.predict(DEPTH, WIDTH) * np.exp(0.01 * rng.standard_normal(len(DEPTH)))
    found = fit_law(DEPTH, WIDTH, noisy)
    off = found.predict(DEPTH, WIDTH) / law.predict(DEPTH, WIDTH) - 1
    assert np.sqrt(np.mean(off**2)) < 0.012
    assert min(parameters(found)) >= 0


def test_parameters_are_near_the_truth_under_noise(rng: np.random.Generator) -> None:
    depth, width = np.meshgrid(np.geomspace(0.25, 16, 8), np.geomspace(0.25, 16, 8))
    noise = np.exp(0.003 * rng.standard_normal(depth.shape))
    found = fit_law(depth.ravel(), width.ravel(), (TRUE.predict(depth, width) * noise).ravel())
    np.testing.assert_allclose(parameters(found), parameters(TRUE), rtol=0.1)


def test_a_single_run_that_went_wrong_does_not_bend_the_law() -> None:
    losses = TRUE.predict(DEPTH, WIDTH)
    losses[6] *= 2
    others = np.arange(len(losses)) != 6
    found = fit_law(DEPTH, WIDTH, losses).predict(DEPTH, WIDTH)
    np.testing.assert_allclose(found[others], losses[others], rtol=0.02)


@given(st.permutations(range(len(GRID))))
def test_the_order_of_points_does_not_matter(order: list[int]) -> None:
    losses = TRUE.predict(DEPTH, WIDTH) * (1 + 0.02 * np.sin(np.arange(len(GRID))))
    assert fit_law(DEPTH[order], WIDTH[order], losses[order]) == fit_law(DEPTH, WIDTH, losses)


@given(st.floats(1e-4, 1e4), st.floats(1e-2, 1e3), st.floats(1e-2, 1e3))
def test_units_do_not_matter(of_loss: float, of_depth: float, of_width: float) -> None:
    losses = TRUE.predict(DEPTH, WIDTH) * (1 + 0.02 * np.sin(np.arange(len(GRID))))
    one = fit_law(DEPTH, WIDTH, losses)
    other = fit_law(of_depth * DEPTH, of_width * WIDTH, of_loss * losses)
    np.testing.assert_allclose(
        other.predict(of_depth * DEPTH, of_width * WIDTH), of_loss * one.predict(DEPTH, WIDTH), rtol=1e-4
    )
    np.testing.assert_allclose([other.alpha, other.beta], [one.alpha, one.beta], rtol=0.02)


def test_depth_that_makes_no_difference_or_harm_is_worth_nothing() -> None:
    flat = fit_law(DEPTH, WIDTH, 2 + 0.9 * WIDTH**-0.5)
    harmful = fit_law(DEPTH, WIDTH, 2 + 0.9 * WIDTH**-0.5 + 0.05 * DEPTH)
    for law in (flat, harmful):
        assert float(law.predict(0.5, 1.0)) == pytest.approx(float(law.predict(3.0, 1.0)), rel=1e-3)
    assert flat.beta == pytest.approx(0.5, rel=0.02)


CROSS = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)]


def test_a_cross_of_five_points_is_enough() -> None:
    depth, width = np.array(CROSS, dtype=float).T
    found = fit_law(depth, width, TRUE.predict(depth, width))
    np.testing.assert_allclose(parameters(found), parameters(TRUE), rtol=1e-3)


@pytest.mark.parametrize(
    "points",
    [
        [],
        CROSS[:4],
        [*CROSS[:4], *CROSS[:4]],  # some twice
        [(n, n) for n in range(1, 12)],  # as deep as wide
        [(n, n**2) for n in range(1, 12)],
        list(itertools.product((1, 2), range(1, 10))),
        list(itertools.product(range(1, 10), (1, 2))),
        list(itertools.product(range(1, 10), (1,))),
    ],
)
def test_points_that_cannot_tell_depth_from_width_are_refused(points: list[tuple[int, int]]) -> None:
    depth, width = np.array(points, dtype=float).reshape(-1, 2).T
    with pytest.raises(WeakAudioError, match=r"at least 3 depths|no points"):
        fit_law(depth, width, TRUE.predict(depth, width))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_invalid_numbers_are_refused_and_named(value: float) -> None:
    losses = TRUE.predict(DEPTH, WIDTH)
    losses[3] = value
    with pytest.raises(WeakAudioError, match=rf"loss {value} of point 3 \(depth 0.5, width 2\)"):
        fit_law(DEPTH, WIDTH, losses)
    depths = DEPTH.copy()
    depths[3] = value
    with pytest.raises(WeakAudioError, match=rf"depth {value} of point 3"):
        fit_law(depths, WIDTH, TRUE.predict(DEPTH, WIDTH))
    with pytest.raises(WeakAudioError, match="shapes"):
        fit_law(DEPTH, WIDTH, losses[:-1])


def test_corners_are_held_out_and_predicted_from_the_rest() -> None:
    losses = TRUE.predict(DEPTH, WIDTH)
    losses[-1] *= 1.25  # a corner: the fit must not see it
    table = held_out_error(DEPTH, WIDTH, losses)
    assert list(zip(table["depth"], table["width"], strict=True)) == [
        (0.5, 0.25),
        (0.5, 2.0),
        (3.0, 0.25),
        (3.0, 2.0),
    ]
    np.testing.assert_allclose(table["error"], [0, 0, 0, -0.2], atol=1e-4)
    np.testing.assert_allclose(table["predicted"], TRUE.predict(table["depth"], table["width"]), rtol=1e-4)


def test_any_points_can_be_held_out() -> None:
    losses = TRUE.predict(DEPTH, WIDTH)
    table = held_out_error(DEPTH, WIDTH, losses, DEPTH == 3.0)
    assert list(table["depth"]) == [3.0] * 4
    with pytest.raises(WeakAudioError, match="no points"):
        held_out_error([], [], [])
    with pytest.raises(WeakAudioError, match="no point is held out"):
        held_out_error(DEPTH, WIDTH, losses, np.zeros(len(DEPTH), dtype=bool))
    with pytest.raises(WeakAudioError, match="at least 3 depths"):
        held_out_error(DEPTH, WIDTH, losses, DEPTH > 1.0)
    with pytest.raises(WeakAudioError, match="held_out of shape"):
        held_out_error(DEPTH, WIDTH, losses, [True])


def work(config: dict[str, Any]) -> float:
    """Seconds that grow with blocks and channels."""
    return 1e-3 + sum(1e-8 * blocks * channels**2 for _, blocks, channels in config["stages"])


def test_the_best_ratio_is_that_of_a_plain_loop_and_moves_with_the_budget() -> None:
    chosen = {}
    for budget in (0.0015, 0.003, 0.01, 1.0):
        expected = min((float(TRUE.predict(d, w)), d, w) for d, w in GRID if work(network_config(d, w)) <= budget)
        found = best_ratio(TRUE, work, GRID, budget)
        assert (found.loss, found.depth, found.width) == expected
        assert found.latency == work(network_config(found.depth, found.width)) <= budget
        chosen[budget] = found.width / found.depth
    assert len(set(chosen.values())) > 1
    assert (best_ratio(TRUE, work, GRID, 1.0).depth, best_ratio(TRUE, work, GRID, 1.0).width) == (3.0, 2.0)


def test_of_equally_good_networks_the_fastest_is_chosen() -> None:
    no_gain = Law(2.0, 0.0, 1.0, 0.0, 1.0)
    assert best_ratio(no_gain, work, GRID, 1.0)[:2] == (0.5, 0.25)


def test_a_budget_nothing_meets_names_the_nearest() -> None:
    with pytest.raises(
        WeakAudioError, match=r"a budget of 0\.1 ms; the nearest is depth 0\.5, width 0\.25 with 1\.\d+"
    ):
        best_ratio(TRUE, work, reversed(GRID), 1e-4)


@pytest.mark.parametrize("budget", [0.0, -1.0, np.nan, np.inf])
def test_invalid_budgets_are_refused(budget: float) -> None:
    with pytest.raises(WeakAudioError, match="expected more than 0"):
        best_ratio(TRUE, work, GRID, budget)


def test_invalid_grids_are_refused() -> None:
    with pytest.raises(WeakAudioError, match="no depths and widths"):
        best_ratio(TRUE, work, [], 1.0)
    with pytest.raises(WeakAudioError, match=r"depth 1, width 2: a latency of nan s"):
        best_ratio(TRUE, lambda config: float("nan"), [(1, 2)], 1.0)


def test_depth_multiplies_blocks_and_width_channels() -> None:
    default = build_network("flash", n_classes=3).config
    for depth, width in [(1, 1), (2, 1), (1, 0.5), (0.5, 1), (3, 1.5), (0.1, 0.01)]:
        config = network_config(depth, width)
        assert build_network("flash", n_classes=3, **config).config["stages"] == config["stages"]
        assert config["n_features"] == default["n_features"]
        for (name, blocks, channels), (operator, count, base) in zip(
            config["stages"], default["stages"], strict=True
        ):
            assert name == operator
            assert blocks >= 1
            assert abs(blocks - depth * count) <= 0.5 or blocks == 1
            assert channels % 8 == 0
            assert channels >= 8
            assert abs(channels - width * base) <= 4 or channels == 8
    assert network_config(1, 1)["stages"] == default["stages"]
    assert [blocks for _, blocks, _ in network_config(0.5, 1)["stages"]] == [1, 1, 2, 1]


@pytest.mark.parametrize("factors", [(0, 1), (1, -1), (np.nan, 1), (1, np.inf)])
def test_invalid_depths_and_widths_are_refused(factors: tuple[float, float]) -> None:
    with pytest.raises(WeakAudioError, match="expected numbers above 0"):
        network_config(*factors)


def test_parameters_are_counted_without_the_classifier() -> None:
    config = network_config(0.5, 0.25)
    network = build_network("flash", n_classes=7, **config)
    assert parameter_count(config) == sum(p.numel() for p in network.parameters()) - 7 * (network.n_features + 1)


class Trainer:
    """Gives the loss of a network by the law; counts its calls, and is interrupted at one of them."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.breaks_at = breaks_at

    def __call__(self, config: dict[str, Any]) -> float:
        if len(self.asked) == self.breaks_at:
            raise KeyboardInterrupt
        self.asked.append(config)
        blocks, channels = (sum(stage[n] for stage in config["stages"]) for n in (1, 2))
        return 1 + 1 / blocks + 10 / channels


def test_a_grid_resumes_and_ends_alike(tmp_path: Path) -> None:
    whole, out, settings = Trainer(), tmp_path / "new" / "grid.csv", {"steps": 300}
    expected = measure_grid(GRID, whole, tmp_path / "whole.csv", settings)
    assert whole.asked == [network_config(*point) for point in GRID]
    with pytest.raises(KeyboardInterrupt):
        measure_grid(GRID, Trainer(breaks_at=5), out, settings)
    assert len(pd.read_csv(out)) == 5
    rest = Trainer()
    found = measure_grid(GRID, rest, out, settings)
    assert rest.asked == whole.asked[5:]
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    none = Trainer()
    pd.testing.assert_frame_equal(measure_grid(GRID, none, out, settings), found)
    assert none.asked == []
    assert list(found["parameters"]) == [parameter_count(network_config(*point)) for point in GRID]
    assert not [path for path in out.parent.iterdir() if path.name not in ("grid.csv", ".lock")]


def test_a_grid_gives_the_points_asked_for_in_their_order(tmp_path: Path) -> None:
    measure_grid(GRID, Trainer(), tmp_path / "grid.csv")
    some = measure_grid([(3, 2), (0.5, 1), (3.0, 2.0)], Trainer(), tmp_path / "grid.csv")
    assert list(zip(some["depth"], some["width"], strict=True)) == [(3.0, 2.0), (0.5, 1.0)]
    assert len(pd.read_csv(tmp_path / "grid.csv")) == len(GRID)


def test_a_loss_that_is_no_number_is_named_and_not_kept(tmp_path: Path) -> None:
    losses = iter([1.0, float("nan")])
    with pytest.raises(WeakAudioError, match=r"depth 1, width 0\.5: the loss is nan"):
        measure_grid([(1, 1), (1, 0.5)], lambda config: next(losses), tmp_path / "grid.csv")
    assert list(pd.read_csv(tmp_path / "grid.csv")["loss"]) == [1.0]
    with pytest.raises(WeakAudioError, match="no depths and widths"):
        measure_grid([], Trainer(), tmp_path / "none.csv")


def edited(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], object]:
    return lambda path: change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b""), "not a CSV table"),
        (lambda path: path.write_text("path,label\na,b\n"), "no column 'depth'"),
        (edited(lambda t: t.assign(loss="low")), "damaged"),
        (edited(lambda t: t.assign(loss=[1.0, np.nan])), "line 3: a number is missing"),
        (edited(lambda t: t.assign(loss=[np.inf, 1.0])), "line 2: a number is missing"),
        (edited(lambda t: pd.concat([t, t])), "line 4: .*twice"),
        (edited(lambda t: t.assign(settings='{"steps": 5}')), r'other settings \(\{"steps": 5\}, now \{"steps": 3\}'),
        (edited(lambda t: t.assign(settings="")), "other settings"),
    ],
)
def test_tables_that_are_damaged_or_were_made_with_other_settings_are_refused_and_left(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "grid.csv"
    measure_grid([(1, 1), (1, 2)], Trainer(), path, {"steps": 3})
    damage(path)
    before = path.read_bytes()
    with pytest.raises((StoreError, ManifestError), match=says):
        measure_grid([(1, 1), (2, 2)], Trainer(), path, {"steps": 3})
    assert path.read_bytes() == before


def table(latency: bool = True) -> pd.DataFrame:
    configs = [network_config(*point) for point in GRID]
    frame = pd.DataFrame({"depth": DEPTH, "width": WIDTH, "loss": TRUE.predict(DEPTH, WIDTH) * 1.01})
    frame["parameters"] = [parameter_count(config) for config in configs]
    return frame.assign(latency=[work(config) for config in configs]) if latency else frame


@pytest.mark.parametrize(("against", "unit"), [("parameters", 1e-6), ("latency", 1e3)])
def test_the_figure_shows_what_was_measured_and_the_law(against: str, unit: float) -> None:
    choice = best_ratio(TRUE, work, GRID, 0.01)
    (axes,) = law_figure(table().sample(frac=1, random_state=0), TRUE, against, [(0.01, choice)]).axes
    own = table()[DEPTH == 2.0]
    line, points = axes.lines[4:6]  # of the third depth
    np.testing.assert_allclose(line.get_xdata(), own[against] * unit)
    np.testing.assert_allclose(line.get_ydata(), TRUE.predict(own["depth"], own["width"]))
    np.testing.assert_allclose(points.get_ydata(), own["loss"])
    assert (line.get_label(), points.get_linestyle()) == ("depth 2", "None")
    rings = axes.lines[8:]
    assert len(rings) == (against == "latency")
    for ring in rings:
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (choice.latency * 1e3, choice.loss)


def test_invalid_figures_are_refused() -> None:
    for wrong in ("latency", "depth"):
        with pytest.raises(WeakAudioError, match=f"no figure against '{wrong}'"):
            law_figure(table(latency=False), TRUE, wrong)
    with pytest.raises(WeakAudioError, match="no figure"):
        law_figure(table().head(0), TRUE, "latency")


def test_the_page_shows_the_law_its_errors_and_the_choice() -> None:
    losses = TRUE.predict(DEPTH, WIDTH)
    losses[-1] *= 1.25
    held_out = held_out_error(DEPTH, WIDTH, losses)
    html = law_page(table(), TRUE, held_out, [(0.01, best_ratio(TRUE, work, GRID, 0.01))])
    for text in ("2 + 0.6 D^-0.8 + 0.9 W^-0.5", "20.0 %", "budget (ms)", "10.000"):
        assert text in html
    assert html.count("<img") == 2
    bare = law_page(table(latency=False), TRUE, held_out)
    assert bare.count("<img") == 1
    assert "budget" not in bare
