"""The shared command line: options come from the signature, figures are recorded with the command that made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest

from recipes import results
from recipes.command import command, over_seeds
from recipes.results import Row
from weakaudio.errors import WeakAudioError


def measured(
    where: Annotated[str, "an argument"],
    /,
    seeds: Annotated[Sequence[int], "100 % of the seeds"] = (1, 2),
    kind: Annotated[Literal["a", "b"], "a choice"] = "a",
    out_folder: Annotated[Path | None, "a path"] = None,
    sizes: Annotated[dict[str, int] | None, "JSON"] = None,
    quick: Annotated[bool, "a flag"] = False,
) -> Iterator[Row]:
    """Yield a row."""
    if where == "nowhere":
        raise WeakAudioError("nowhere: expected somewhere")
    row = {"what": where, "system": f"{kind} {out_folder} {sizes}", "metric": "sum", "data": "none"}
    yield {**row, "value": sum(seeds)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes" / "field").mkdir(parents=True)
    return tmp_path


run = command("field")(measured)


def test_options_reach_the_function_and_rows_are_recorded(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["here", "--seeds", "3", "4", "--seeds", "5", "--out-folder", "x y", "--kind", "b", "--sizes", '{"n": 1}']
    assert run(words, root) == 0
    (row,) = results.load("field", root)
    assert (row["what"], row["system"], row["value"]) == ("here", "b x y {'n': 1}", 12)
    assert row["command"].startswith(
        "python -m tests.recipes.test_command here --seeds 3 4 --seeds 5 --out-folder 'x y'"
    )
    assert "here: b x y" in capsys.readouterr().out


def test_defaults_hold_and_a_file_of_options_is_overridden_by_the_command_line(root: Path) -> None:
    (root / "config.yaml").write_text("sizes: {n: 2}\nkind: b\n")
    assert run(["here", "--config", str(root / "config.yaml"), "--kind", "a"], root) == 0
    (row,) = results.load("field", root)
    assert (row["system"], row["value"]) == ("a None {'n': 2}", 3)


def test_quick_records_nothing(root: Path) -> None:
    assert run(["here", "--quick"], root) == 0
    assert results.load("field", root) == []


def test_an_error_is_one_line_and_exit_code_2(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nowhere"], root) == 2
    assert capsys.readouterr().err.endswith("nowhere: expected somewhere\n")
    with pytest.raises(SystemExit):
        run(["here", "--kind", "c"], root)


def test_several_seeds_have_a_spread() -> None:
    assert over_seeds([1.0]) == {"value": 1.0, "n": 1}
    assert over_seeds([1.0, 3.0]) == {"value": 2.0, "n": 2, "spread": pytest.approx(2**0.5)}
