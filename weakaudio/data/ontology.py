"""AudioSet's ontology of sound classes (Gemmeke et al., ICASSP 2017)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakaudio.errors import LabelError


@dataclass(frozen=True)
class Ontology:
    """Directed acyclic graph of classes; a node may have several parents."""

    parents: Mapping[str, frozenset[str]]
    """by node id; empty for roots"""
    restrictions: Mapping[str, frozenset[str]]
    """by node id: "abstract" (a category, not a sound), "blacklist" (not rated in AudioSet)"""

    def ancestors(self, node: str) -> set[str]:
        """All ancestors of a node.

        Raises
        ------
        LabelError
            No such node.
        """
        if node not in self.parents:
            raise LabelError(f"ontology: no node {node!r}")
        above: set[str] = set()
        waiting = list(self.parents[node])
        while waiting:
            parent = waiting.pop()
            if parent not in above:
                above.add(parent)
                waiting += self.parents[parent]
        return above

    def check_classes(self, classes: Iterable[str]) -> None:
        """Refuse classes that are not in the ontology, or abstract, so that no clip can be labelled with them.

        Blacklisted classes pass: AudioSet's 527 classes include twelve of them.

        Raises
        ------
        LabelError
        """
        for node in classes:
            if node not in self.parents:
                raise LabelError(f"ontology: class {node!r} is not in it")
            if "abstract" in self.restrictions[node]:
                raise LabelError(f"ontology: class {node!r} is abstract, so no clip can be labelled with it")


def read_ontology(path: str | Path) -> Ontology:
    """Read and check `ontology.json`: a list of nodes with `id`, `child_ids` and `restrictions`.

    Raises
    ------
    LabelError
        Not such a list, a repeated node, an unknown child, or a cycle.
    """
    try:
        nodes = list(_nodes(json.loads(Path(path).read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise LabelError(f"{path}: no such ontology") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{path}: not a list of nodes with id, child_ids and restrictions ({error!r})") from error
    children: dict[str, list[str]] = {}
    for node, below, _ in nodes:
        if node in children:
            raise LabelError(f"{path}: node {node!r} is repeated")
        children[node] = below
    for node, below in children.items():
        unknown = [child for child in below if child not in children]
        if unknown:
            raise LabelError(f"{path}: node {node!r} has child {unknown[0]!r}, which is not in it")
    _refuse_cycles(children, path)
    parents: dict[str, set[str]] = {node: set() for node in children}
    for node, below in children.items():
        for child in below:
            parents[child].add(node)
    return Ontology(
        {node: frozenset(above) for node, above in parents.items()},
        {node: frozenset(limits) for node, _, limits in nodes},
    )


def _nodes(content: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], list[str]]]:
    for node in content:
        yield str(node["id"]), [str(child) for child in node["child_ids"]], list(node.get("restrictions", ()))


def _refuse_cycles(children: Mapping[str, list[str]], path: str | Path) -> None:
    """Remove nodes without parents repeatedly (Kahn's algorithm); the rest are in a cycle or below one."""
    above = dict.fromkeys(children, 0)
    for below in children.values():
        for child in below:
            above[child] += 1
    free = [node for node, count in above.items() if not count]
    while free:
        for child in children[free.pop()]:
            above[child] -= 1
            if not above[child]:
                free.append(child)
    stuck = [node for node, count in above.items() if count]
    if stuck:
        raise LabelError(f"{path}: has a cycle; nodes in or below it: {', '.join(sorted(stuck)[:5])}")
