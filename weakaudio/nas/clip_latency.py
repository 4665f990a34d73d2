"""The latency that a search and a law go by, and which networks a latency table can tell it of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakaudio.audio.frontend import FrontEnd
from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import Key, pieces
from weakaudio.nas.latency_model import N_CLASSES, predict
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.profile import complete
from weakaudio.nas.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class ClipLatency:
    """Seconds for one clip, from waveform to class probabilities, in a batch of clips of one length.

    The classes are AudioSet's 527 in number, whatever a network is trained for: they hardly count.
    """

    table: LatencyTable
    front_end: FrontEnd | str
    """one of the presets, or a decimated one"""
    seconds: float
    """length of a clip"""
    batch: int
    """clips"""

    def __call__(self, config: Mapping[str, Any]) -> float:
        """Of a `FlashCNN`, by its arguments.

        Raises
        ------
        WeakAudioError
            As `predict`.
        """
        return predict(_classified(config), self.table, self.front_end, self.seconds, self.batch).total / self.batch

    def runs(self, config: Mapping[str, Any]) -> bool:
        """Whether the device could run all pieces of a network."""
        keys = pieces(_classified(config), self.front_end, self.seconds, self.batch)
        return not any(key in self.table.errors for key in keys)

    def keys(self, space: SearchSpace) -> list[Key]:
        """All that networks of a space are made of, each once."""
        configs = [_classified(genome.to_config()) for genome in space.covering()]
        found = (pieces(config, self.front_end, self.seconds, self.batch) for config in configs)
        return list(dict.fromkeys(key for keys in found for key in keys))

    def complete(self, configs: list[dict[str, Any]], path: str | Path | None = None) -> int:
        """Measure what the table lacks of networks, and save it there; see `profile.complete`."""
        whole = [_classified(config) for config in configs]
        return complete(self.table, whole, self.front_end, self.seconds, self.batch, path=path)

    def runnable(self, space: SearchSpace) -> SearchSpace:
        """The space without the operators of which the device can run no block.

        Raises
        ------
        WeakAudioError
            The table lacks pieces of the space, or the device runs no operator of a stage.
        """
        keys = self.keys(space)
        missing = [key for key in keys if key not in self.table.times and key not in self.table.errors]
        if missing:
            raise WeakAudioError(
                f"latency table: lacks {len(missing)} of the {len(keys)} pieces of the search space, the first: "
                f"{missing[0]}; complete it, on the device it is of: `{self._profile_command()}`"
            )
        failed = self.failed(space)
        try:
            return space.with_operators({name for names in space.operators for name in names} - failed.keys())
        except WeakAudioError as error:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise WeakAudioError(f"{error}, as {self.table.device} cannot run {reasons}") from error

    def failed(self, space: SearchSpace) -> dict[str, str]:
        """The operators of which the device can run no block, and why not."""
        blocks = [key for key in self.keys(space) if key.piece == "block"]
        run = {key.operator for key in blocks if key in self.table.times}
        errors = self.table.errors
        return {key.operator: errors[key] for key in blocks if key in errors and key.operator not in run}

    def settings(self, space: SearchSpace) -> dict[str, Any]:
        """All that decides the latency of networks of a space, as JSON; of the times, a digest."""
        times = [f"{key}: {self.table.times.get(key)}" for key in sorted(self.keys(space))]
        return {
            "device": str(self.table.device),
            "front_end": self._name,
            "seconds": self.seconds,
            "batch": self.batch,
            "times": hashlib.sha256("\n".join(times).encode()).hexdigest()[:12],
        }

    def _profile_command(self) -> str:
        """What completes the table."""
        device = self.table.device
        words = ["weakaudio search profile -o TABLE", f"--front-end {self._name}"]
        words += [f"--seconds {self.seconds!r}", f"--batch {self.batch}", f"--device {device.kind}"]
        words += [f"--threads {device.threads}"] if device.threads else []
        words += ["--graphs"] if device.graphs else []
        words += ["--int8"] if device.onnxruntime else []
        return " ".join(words)

    @property
    def _name(self) -> str:
        return self.front_end if isinstance(self.front_end, str) else self.front_end.name


def _classified(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "n_classes": N_CLASSES}
