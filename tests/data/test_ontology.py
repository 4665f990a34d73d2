from __future__ import annotations

import json
from pathlib import Path

import pytest

from weakaudio.data.ontology import read_ontology
from weakaudio.errors import LabelError


def write(path: Path, children: dict[str, list[str]], **restrictions: list[str]) -> Path:
    nodes = [{"id": k, "child_ids": v, "restrictions": restrictions.get(k, [])} for k, v in children.items()]
    path.write_text(json.dumps(nodes))
    return path


@pytest.fixture
def diamond(tmp_path: Path) -> Path:
    """low has parents left and right, which have parent top."""
    children: dict[str, list[str]] = {"top": ["left", "right"], "left": ["low"], "right": ["low"], "low": []}
    return write(tmp_path / "ontology.json", children, top=["abstract"], low=["blacklist"])


def test_ancestors_are_found_along_all_paths(diamond: Path) -> None:
    ontology = read_ontology(diamond)
    assert ontology.ancestors("low") == {"left", "right", "top"}
    assert ontology.ancestors("left") == {"top"}
    assert ontology.ancestors("top") == set()
    with pytest.raises(LabelError, match="'bottom'"):
        ontology.ancestors("bottom")


def test_abstract_and_unknown_classes_are_refused_and_blacklisted_ones_are_not(diamond: Path) -> None:
    ontology = read_ontology(diamond)
    ontology.check_classes(["low", "left"])
    with pytest.raises(LabelError, match="'top' is abstract"):
        ontology.check_classes(["low", "top"])
    with pytest.raises(LabelError, match="'bottom' is not in it"):
        ontology.check_classes(["bottom"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"id": "a", "child_ids": ["b"]}]', "'a' has child 'b'"),
        ('[{"id": "a", "child_ids": []}, {"id": "a", "child_ids": []}]', "'a' is repeated"),
        ('[{"id": "a", "child_ids": ["a"]}]', "cycle.*: a"),
        ('[{"id": "a", "child_ids": ["b"]}, {"id": "b", "child_ids": ["a"]}, {"id": "c", "child_ids": []}]', "a, b$"),
        ('[{"id": "a"}]', "not a list of nodes"),
        ('{"id": "a"}', "not a list of nodes"),
        ("[", "not a list of nodes"),
    ],
)
def test_an_invalid_ontology_is_refused_with_file_and_reason(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "ontology.json").write_text(content)
    with pytest.raises(LabelError, match=rf"ontology\.json: .*{said}"):
        read_ontology(tmp_path / "ontology.json")


def test_a_missing_ontology_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="absent"):
        read_ontology(tmp_path / "absent.json")
