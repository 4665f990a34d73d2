"""What README says can be typed: verbs and options exist, snippets compile and name what is there."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from weakaudio.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^    (weakaudio .+)$|`(weakaudio [^`]+)`", README, re.MULTILINE)))
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("line", ["".join(found) for found in COMMANDS])
def test_verbs_and_options_of_the_readme_exist(line: str) -> None:
    _, verb, *words = shlex.split(line)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert verb in commands
    command = commands[verb]
    if verb == "search":  # has commands of its own
        command = command.commands[words.pop(0)]
    options = [word for word in words if word.startswith("-") and "." not in word]
    if verb in ("prepare", "train"):  # pass all on to the function or to LightningCLI
        words = [words[0], "--help"] if verb == "prepare" and words[0] != "NAME" else ["--help"]
        result = CliRunner().invoke(app, [verb, *words])
        assert result.exit_code == 0
        return
    known = {"--help", *(name for parameter in command.params for name in parameter.opts)}
    assert set(options) <= known


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_names_that_snippets_import_are_there(snippet: str) -> None:
    imports = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = importlib.import_module(str(node.module))
        assert all(hasattr(module, alias.name) for alias in node.names)


def test_files_and_folders_that_the_readme_links_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
