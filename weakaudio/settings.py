"""Comparison of the settings that stored results were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, nested ones by their path: `seed 0, now 1` or `proxy.steps 2, now 3`."""
    different = []
    for name in sorted(found.keys() | wanted.keys()):
        before, after = found.get(name), wanted.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            different += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            different.append(
                f"{prefix}{name} {json.dumps(before, default=str)}, now {json.dumps(after, default=str)}"
            )
    return different
