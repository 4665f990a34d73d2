"""A score that needs torch, as those of real searches do; others do not wait for its import."""

from __future__ import annotations

from typing import Any

import torch


def threads_score(config: dict[str, Any]) -> float:
    """How many threads torch has."""
    return float(torch.get_num_threads())
