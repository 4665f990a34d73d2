"""The times of components on one device, and the file that keeps them."""

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
from weakaudio.nas.components import KINDS, Component
from weakaudio.networks.runtime import find_device

FORMAT_VERSION = 2


def device_here(device: Device) -> Device:
    """The device of that kind on this machine, used in the same way: threads, CUDA graphs, 8 bits.

    Raises
    ------
    WeakAudioError
        This machine has none of that kind, or lacks what such a use takes.
    """
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise WeakAudioError("there is no GPU")
    here = describe(find_device(device.kind), device.graphs, device.onnxruntime is not None)
    return here if here.threads is None else replace(here, threads=device.threads)


@dataclass
class LatencyTable:
    """Seconds of components on one device."""

    device: Device
    times: dict[Component, float] = field(default_factory=dict)
    """seconds for the whole batch"""
    errors: dict[Component, str] = field(default_factory=dict)
    """components that the device cannot run, and why"""
    version: str = __version__
    """of weakaudio, which decides what components compute"""

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically; one component per line, so that some can be deleted by hand.

        Raises
        ------
        WriteError
            The file cannot be written.
        """
        rows = [{**_to_row(component), "time": time} for component, time in sorted(self.times.items())]
        rows += [{**_to_row(component), "error": error} for component, error in sorted(self.errors.items())]
        lines = ",\n".join(json.dumps(row) for row in rows)
        head = {"latency_table": FORMAT_VERSION, "weakaudio": self.version, "device": asdict(self.device)}
        with atomic_write(path) as part:
            part.write_text(f'{json.dumps(head)[:-1]}, "entries": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, device: Device | None = None, allow_other_device: bool = False) -> LatencyTable:
        """Read what `save` wrote.

        Parameters
        ----------
        device
            The device that the times must be of; None: this machine's device of the table's kind.
        allow_other_device
            Accept a table of another device; no components can be added to it.

        Raises
        ------
        WeakAudioError
            No such file, another format, damaged, or made on another device or by another version of weakaudio.
        """
        path = Path(path)
        if not path.is_file():
            raise WeakAudioError(f"{path}: no such file; `weakaudio search profile` writes a latency table")
        try:
            table = _parse(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise WeakAudioError(
                f"{path}: no latency table, damaged or cut short ({reason}); measure again"
            ) from error
        if table.version != __version__:
            raise WeakAudioError(
                f"{path}: measured with weakaudio {table.version}, this is {__version__}, whose components may "
                "differ; measure again"
            )
        if allow_other_device:
            return table
        try:
            here = device or device_here(table.device)
        except WeakAudioError as error:
            raise WeakAudioError(f"{path}: measured on {table.device}, which is not available: {error}") from error
        if table.device != here:
            raise WeakAudioError(
                f"{path}: measured on another device: {table.device}; here: {here}. Measure here, into another file, "
                "or tell `weakaudio search run` to use the other device's times (--allow-other-device)"
            )
        return table


def _to_row(component: Component) -> dict[str, Any]:
    """The component's fields by their names in the file, where its kind is called piece."""
    return {"piece" if name == "kind" else name: value for name, value in component._asdict().items()}


def _parse(content: Any) -> LatencyTable:
    """Raise ValueError, TypeError or KeyError for anything that `LatencyTable.save` does not write."""
    if not isinstance(content, dict) or content.keys() != {"latency_table", "weakaudio", "device", "entries"}:
        raise ValueError("expected latency_table, weakaudio, device and entries")
    if content["latency_table"] != FORMAT_VERSION:
        raise ValueError(f"format {content['latency_table']!r}, this release reads {FORMAT_VERSION}")
    _check_types(content["device"], _DEVICE_TYPES)
    _check_types({"weakaudio": content["weakaudio"]}, {"weakaudio": (str,)})
    table = LatencyTable(Device(**content["device"]), version=content["weakaudio"])
    for row in content["entries"]:
        what = {"error": (str,)} if "error" in row else {"time": (float, int)}
        _check_types(row, {**_COMPONENT_TYPES, **what})
        component = Component(*(row[name] for name in _COMPONENT_TYPES))._replace(seconds=float(row["seconds"]))
        numbers = component.inputs, component.outputs, component.rows, component.mels, component.batch
        if component.kind not in KINDS or min(numbers) < 1 or not 0 < component.seconds < inf:
            raise ValueError(f"no component of a network: {component}")
        if component in table.times or component in table.errors:
            raise ValueError(f"listed twice: {component}")
        if "error" in row:
            table.errors[component] = row["error"]
        elif isfinite(row["time"]) and row["time"] >= 0:
            table.times[component] = float(row["time"])
        else:
            raise ValueError(f"a time of {row['time']} s: {component}")
    return table


_COMPONENT_TYPES: dict[str, tuple[type, ...]] = {  # by their names in the file, in the order of `Component`
    **dict.fromkeys(("piece", "operator"), (str,)),
    **dict.fromkeys(("inputs", "outputs", "rows", "mels", "batch"), (int,)),
    "seconds": (float, int),
    "dtype": (str,),
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
