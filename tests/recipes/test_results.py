"""The tables of the READMEs agree with the recorded figures, and figures keep their origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes import results


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a recipe and a README with one table."""
    (tmp_path / "recipes" / "benchmark").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# A\n<!-- results: benchmark / speed -->\n<!-- /results -->\nB\n")
    return tmp_path


def row(**changes: object) -> results.Row:
    facts = {
        "what": "speed",
        "system": "ours",
        "metric": "s/s",
        "value": 123.456,
        "data": "noise",
        "command": "run it",
    }
    return {**facts, **changes}


def test_tables_of_this_repository_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["--check"]) == 0, capsys.readouterr().out
    for path in results.ROOT.glob("recipes/*/results.json"):
        for one in results.load(path.parent.name):
            assert list(one) == list(results.FIELDS)


def test_rows_are_recorded_with_their_origin_and_replace_their_like(project: Path) -> None:
    results.record(
        "benchmark", [row(), row(system="theirs", spread=0.5, n=5, note="slow"), row(data="speech")], project
    )
    ours, theirs, speech = results.load("benchmark", project)
    assert (ours["value"], ours["spread"], ours["n"], ours["commit"]) == (
        123.456,
        None,
        1,
        "unknown",
    )  # not under git
    assert (theirs["spread"], theirs["n"], theirs["note"]) == (0.5, 5, "slow")
    assert "cores" in ours["machine"]
    assert "torch" in ours["machine"]
    old = {"commit": "abc", "machine": "m", "date": "2000-01-01"}
    results.record("benchmark", [row(value=2.0, **old)], project)
    assert results.load("benchmark", project) == [{**ours, "value": 2.0, **old}, theirs, speech]


@pytest.mark.parametrize("changes", [{"value": float("nan")}, {"unit": "s"}, {"value": "3"}])
def test_a_malformed_row_is_refused(project: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="row"):
        results.record("benchmark", [row(**changes)], project)
    assert results.load("benchmark", project) == []


def test_tables_are_written_and_checked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(spread=1.26, n=3, note="warm"), row(metric="ratio", value=0.01234), row(system="theirs", value=5)]
    results.record("benchmark", rows, project)
    assert results.main(["--check"], project) == 1
    assert "README.md" in capsys.readouterr().out
    assert results.main([], project) == 0
    text = (project / "README.md").read_text()
    assert "| system | s/s | ratio |" in text
    assert "| ours | 123 ± 1 (n=3) <sup>1</sup> | 0.0123 |" in text
    assert "| theirs | 5 |  |" in text
    assert "<sub>1: warm</sub>" in text
    made = results.origin(project)
    assert f"noise; `run it`; {made['machine']}; commit unknown; {made['date']}</sub>" in text
    assert text.startswith("# A\n")
    assert text.endswith("<!-- /results -->\nB\n")
    assert results.main(["--check"], project) == 0


def test_data_become_a_column_where_they_differ(project: Path) -> None:
    results.record("benchmark", [row(), row(data="speech", value=5)], project)
    table = results.table("benchmark", "speed", project)
    assert "| system | data | s/s |" in table
    assert "| ours | speech | 5 |" in table


def test_a_table_that_is_not_closed_or_empty_is_an_error(project: Path) -> None:
    with pytest.raises(ValueError, match="no rows for the table 'speed'"):
        results.main([], project)
    (project / "README.md").write_text("<!-- results: benchmark / speed -->\n")
    with pytest.raises(ValueError, match="not closed"):
        results.main([], project)


def test_the_table_of_models_is_written_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- models -->\nold\n<!-- /models -->\nB\n")
    assert results.main([], tmp_path) == 0
    text = readme.read_text()
    assert text.startswith("# A\n<!-- models -->\n| name |")
    assert text.endswith("<!-- /models -->\nB\n")
    assert "| `efficientat-mn04` | 0.98 M | 32 | 527 | 0.432 |" in text
