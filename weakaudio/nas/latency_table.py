"""The times of pieces on one device, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch

from weakaudio import __version__
from weakaudio.deploy.benchmark import Device, describe
from weakaudio.errors import WeakAudioError
from weakaudio.files import atomic_write
from weakaudio.inference.embedder import find_device
from weakaudio.nas.components import PIECES, Key

FORMAT_VERSION = 2


def at_hand(device: Device) -> Device:
    """The device of that kind here, used in the same way: with as many threads, CUDA graphs or not, 8 bits or not.

    Raises
    ------
    WeakAudioError
        There is none of that kind here, or what it takes to use it so is missing.
    """
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise WeakAudioError("there is no GPU")
    here = describe(find_device(device.kind), device.graphs, device.onnxruntime is not None)
    return here if here.threads is None else replace(here, threads=device.threads)


@dataclass
class LatencyTable:
    """Seconds of pieces on one device."""

    device: Device
    times: dict[Key, float] = field(default_factory=dict)
    """seconds for the whole batch"""
    errors: dict[Key, str] = field(default_factory=dict)
    """pieces that the device cannot run, and why"""
    version: str = __version__
    """of weakaudio, whose pieces they are"""

    def save(self, path: str | Path) -> None:
        """Write as JSON, beside first and then renamed into place.

        Raises
        ------
        ManifestError
            The file cannot be written.
        """
        rows = [{**key._asdict(), "time": time} for key, time in sorted(self.times.items())]
        rows += [{**key._asdict(), "error": error} for key, error in sorted(self.errors.items())]
        # A row a line, so that a person can take some out.
        lines = ",\n".join(json.dumps(row) for row in rows)
        head = {"latency_table": FORMAT_VERSION, "weakaudio": self.version, "device": asdict(self.device)}
        with atomic_write(path) as beside:
            beside.write_text(f'{json.dumps(head)[:-1]}, "entries": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, device: Device | None = None, allow_other_device: bool = False) -> LatencyTable:
        """Read what `save` wrote.

        Parameters
        ----------
        device
            On which its times are to hold; None: the one at hand of the table's kind, used as the table says.
        allow_other_device
            Take the table even if it is of another one; it cannot be completed then.

        Raises
        ------
        WeakAudioError
            No such file, another format, damaged, of another device or another version of weakaudio.
        """
        path = Path(path)
        if not path.is_file():
            raise WeakAudioError(f"{path}: no such file; `weakaudio search profile` writes a latency table")
        try:
            table = _parse(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise WeakAudioError(
                f"{path}: no latency table, damaged or cut short ({reason}); measure anew"
            ) from error
        if table.version != __version__:
            raise WeakAudioError(
                f"{path}: measured with weakaudio {table.version}, this is {__version__}, whose pieces may be other "
                "ones; measure anew"
            )
        if allow_other_device:
            return table
        try:
            here = device or at_hand(table.device)
        except WeakAudioError as error:
            raise WeakAudioError(f"{path}: measured on {table.device}, which is not at hand: {error}") from error
        if table.device != here:
            raise WeakAudioError(
                f"{path}: measured on another device: {table.device}; here: {here}. Measure here, into another file, "
                "or, for `weakaudio search run`, say that the other's times are meant (--allow-other-device)"
            )
        return table


def _parse(content: Any) -> LatencyTable:
    """ValueError, TypeError or KeyError for all that `LatencyTable.save` does not write."""
    if not isinstance(content, dict) or content.keys() != {"latency_table", "weakaudio", "device", "entries"}:
        raise ValueError("expected latency_table, weakaudio, device and entries")
    if content["latency_table"] != FORMAT_VERSION:
        raise ValueError(f"format {content['latency_table']!r}, this release reads {FORMAT_VERSION}")
    _check_types(content["device"], _DEVICE_TYPES)
    _check_types({"weakaudio": content["weakaudio"]}, {"weakaudio": (str,)})
    table = LatencyTable(Device(**content["device"]), version=content["weakaudio"])
    for row in content["entries"]:
        what = {"error": (str,)} if "error" in row else {"time": (float, int)}
        _check_types(row, {**_KEY_TYPES, **what})
        key = Key(**{name: row[name] for name in Key._fields})._replace(seconds=float(row["seconds"]))
        numbers = key.inputs, key.outputs, key.rows, key.mels, key.batch
        if key.piece not in PIECES or min(numbers) < 1 or not 0 < key.seconds < inf:
            raise ValueError(f"no piece of a network: {key}")
        if key in table.times or key in table.errors:
            raise ValueError(f"there twice: {key}")
        if "error" in row:
            table.errors[key] = row["error"]
        elif isfinite(row["time"]) and row["time"] >= 0:
            table.times[key] = float(row["time"])
        else:
            raise ValueError(f"a time of {row['time']} s: {key}")
    return table


_KEY_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("piece", "operator", "dtype"), (str,)),
    **dict.fromkeys(("inputs", "outputs", "rows", "mels", "batch"), (int,)),
    "seconds": (float, int),
}
_DEVICE_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("kind", "name", "torch"), (str,)),
    **dict.fromkeys(("cores", "threads"), (int, type(None))),
    "graphs": (bool,),
    "onnxruntime": (str, type(None)),
}


def _check_types(row: Any, types: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(row, dict) or row.keys() != types.keys():
        raise ValueError(f"expected {', '.join(types)}, got {row}")
    for name, kinds in types.items():
        if type(row[name]) not in kinds:  # a bool is no number here
            raise TypeError(f"{name} {row[name]!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
