"""The tables of the READMEs agree with the figures recorded, and figures know the code that made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes import code, results

SOURCE = '"""Docstring."""\n\n\ndef double(x: int) -> int:\n    """Twice x."""\n    return 2 * x  # comment\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one source file under the recipe `benchmark` and a README with one table."""
    (tmp_path / "weakaudio" / "audio").mkdir(parents=True)
    (tmp_path / "weakaudio" / "audio" / "double.py").write_text(SOURCE)
    (tmp_path / "recipes" / "benchmark").mkdir(parents=True)
    (tmp_path / "recipes" / "benchmark" / "config.yaml").write_text("a: 1\n")
    (tmp_path / "README.md").write_text("# A\n<!-- results: benchmark / speed -->\n<!-- /results -->\nB\n")
    return tmp_path


def row(**changes: object) -> results.Row:
    return {
        "what": "speed",
        "system": "ours",
        "metric": "s/s",
        "value": 123.456,
        "data": "noise",
        "command": "run it",
        **changes,
    }


def test_tables_of_this_repository_agree() -> None:
    assert results.main(["--check"]) == 0


def test_recorded_rows_come_back_with_their_origin(project: Path) -> None:
    results.record("benchmark", [row(), row(system="theirs", spread=0.5, n=5, note="slow")], project)
    ours, theirs = results.load("benchmark", project)
    assert (ours["system"], ours["value"], ours["n"], ours["spread"]) == ("ours", 123.456, 1, None)
    assert (theirs["spread"], theirs["n"], theirs["note"]) == (0.5, 5, "slow")
    assert ours["commit"] == "unknown"  # not under git
    assert "cores" in ours["machine"]
    assert len(ours["code"]) == 64


def test_a_row_replaces_its_like_in_place_and_nothing_else(project: Path) -> None:
    results.record("benchmark", [row(), row(system="theirs"), row(data="speech")], project)
    path = results.record("benchmark", [row(value=2.0)], project)
    found = [(r["system"], r["data"], r["value"]) for r in json.loads(path.read_text())]
    assert found == [("ours", "noise", 2.0), ("theirs", "noise", 123.456), ("ours", "speech", 123.456)]
    before = path.read_bytes()
    assert results.record("benchmark", [row(value=2.0)], project).read_bytes() == before


@pytest.mark.parametrize("changes", [{"value": float("nan")}, {"unit": "s"}, {"value": "3"}])
def test_a_malformed_row_is_refused(project: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="benchmark"):
        results.record("benchmark", [row(**changes)], project)
    assert results.load("benchmark", project) == []


def test_tables_are_written_and_checked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["--check"], project) == 1  # "no figures yet" is not there
    assert "README.md" in capsys.readouterr().out
    rows = [row(spread=1.26, n=3, note="warm"), row(metric="ratio", value=0.01234), row(system="theirs")]
    results.record("benchmark", rows, project)
    assert results.main([], project) == 0
    text = (project / "README.md").read_text()
    assert "| system | s/s | ratio |" in text
    assert "| ours | 123 ± 1 (n=3) <sup>1</sup> | 0.0123 |" in text
    assert "| theirs | 123 |  |" in text
    assert "<sub>1: warm</sub>" in text
    assert text.startswith("# A\n")
    assert text.endswith("<!-- /results -->\nB\n")
    assert results.main(["--check"], project) == 0


def test_data_become_a_column_where_they_differ(project: Path) -> None:
    results.record("benchmark", [row(), row(data="speech", value=5)], project)
    table = results.table("benchmark", "speed", project)
    assert "| system | data | s/s |" in table
    assert "| ours | speech | 5 |" in table


def test_figures_go_stale_with_code_but_not_with_comments(project: Path) -> None:
    source = project / "weakaudio" / "audio" / "double.py"
    results.record("benchmark", [row()], project)
    source.write_text(SOURCE.replace("# comment", "# another").replace("Twice x.", "x, twice."))
    assert "(stale)" not in results.table("benchmark", "speed", project)
    source.write_text(SOURCE.replace("2 * x", "3 * x"))
    assert "(stale)" in results.table("benchmark", "speed", project)
    source.write_text(SOURCE)
    (project / "recipes" / "benchmark" / "config.yaml").write_text("a: 2\n")
    assert "(stale)" in results.table("benchmark", "speed", project)


def test_a_table_of_its_own_code_goes_stale_with_that_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(code.CODE_OF_TABLES, ("benchmark", "size"), ["weakaudio/size.py"])
    (project / "weakaudio" / "size.py").write_text(SOURCE)
    results.record("benchmark", [row(), row(what="size")], project)

    def stale() -> list[str]:
        return [what for what in ("speed", "size") if "(stale)" in results.table("benchmark", what, project)]

    assert stale() == []
    (project / "recipes" / "benchmark" / "config.yaml").write_text("a: 2\n")
    assert stale() == ["speed"]
    (project / "weakaudio" / "size.py").write_text(SOURCE.replace("2 * x", "3 * x"))
    assert stale() == ["speed", "size"]


def test_code_is_named_of_recipes_and_tables_that_are_there() -> None:
    readmes = "".join(path.read_text() for path in results.ROOT.glob("recipes/*/README.md"))
    named = {f"{recipe} / ": paths for recipe, paths in code.CODE.items()}
    named |= {f"{recipe} / {what} -->": paths for (recipe, what), paths in code.CODE_OF_TABLES.items()}
    for name, paths in named.items():
        assert f"<!-- results: {name}" in readmes, name
        assert [path for path in paths if not (results.ROOT / path).exists()] == []


def test_a_table_that_is_not_closed_is_an_error(project: Path) -> None:
    (project / "README.md").write_text("<!-- results: benchmark / speed -->\n")
    with pytest.raises(ValueError, match="close"):
        results.main([], project)
