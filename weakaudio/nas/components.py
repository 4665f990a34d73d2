"""The components of a `FlashCNN`, whose times add up to its latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from weakaudio.audio.frontend import FrontEnd, get_front_end
from weakaudio.audio.geometry import halve
from weakaudio.errors import WeakAudioError
from weakaudio.networks.operators import OPERATORS
from weakaudio.networks.runtime import DTYPES

KINDS = ("front end", "stem", "entry", "block", "last", "head")


class Component(NamedTuple):
    """A part of a network, with the shape of its input: all that decides its time on a device."""

    kind: str
    """one of `KINDS`"""
    operator: str
    """of a block; of a front end, its name; else empty"""
    inputs: int
    """channels in; D for the head, 1 for the front end"""
    outputs: int
    """channels out; C for the head, 1 for the front end"""
    rows: int
    """of its input; for the front end, T of its output"""
    mels: int
    """of its input; for the front end, F of its output"""
    batch: int
    seconds: float
    """length of a clip"""
    dtype: str
    """float32 or bfloat16, as for `Embedder`; in a table in 8 bits float32, for what is not in 8 bits"""

    def __str__(self) -> str:
        name = f"{self.kind} {self.operator}".strip()
        return (
            f"{name}, {self.inputs} to {self.outputs} channels, {self.rows} x {self.mels}, "
            f"{self.batch} x {self.seconds:g} s, {self.dtype}"
        )


def count_components(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, dtype: str = "float32"
) -> dict[Component, int]:
    """Count the components of a network, the front end included.

    Parameters
    ----------
    config
        Arguments of a `FlashCNN`; `n_mels` may be left out, and is then the front end's.
    front_end
        A preset, decimated or not, or its name.
    seconds
        Length of each clip.
    batch
        Number of clips, all of that length.
    dtype
        "float32" or "bfloat16".

    Raises
    ------
    WeakAudioError
        As `logmel_shape`; an unknown operator or dtype; a config that lacks an argument or has another `n_mels`.
    """
    return dict(Counter(named_components(config, front_end, seconds, batch, dtype).values()))


def named_components(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, dtype: str = "float32"
) -> dict[str, Component]:
    """Components in the order of the signal, by their module's name in `FlashCNN`; the front end is "logmel".

    Parameters and errors as for `count_components`.
    """
    if dtype not in DTYPES:
        raise WeakAudioError(f"dtype {dtype!r}: unknown; there are {', '.join(DTYPES)}")
    fe = _preset(front_end)
    _, rows, mels = logmel_shape(fe, seconds, batch)
    try:
        stages = [(str(operators), int(count), int(width)) for operators, count, width in config["stages"]]
        features, classes = int(config["n_features"]), int(config["n_classes"])
    except KeyError as error:
        raise WeakAudioError(f"network: its config has no {error}") from error
    except (TypeError, ValueError) as error:
        raise WeakAudioError(f"network: invalid stages {config['stages']!r} ({error})") from error
    if config.get("n_mels", mels) != mels:
        raise WeakAudioError(f"network of {config['n_mels']} mels: the front end {fe.name!r} has {mels}")

    clips = batch, float(seconds), dtype
    found = {"logmel": Component("front end", fe.name, 1, 1, rows, mels, *clips)}
    inputs = 1
    for n, (operators, count, width) in enumerate(stages):
        found[f"entries.{n}"] = Component("entry" if n else "stem", "", inputs, width, rows, mels, *clips)
        for _ in range(1 if n else 2):
            rows, mels = halve(rows, "all"), mels // 2
        for m, operator in enumerate(_operator_of_each_block(operators, count)):
            found[f"stages.{n}.{m}"] = Component("block", operator, width, width, rows, mels, *clips)
        inputs = width
    found["last"] = Component("last", "", inputs, features, rows, mels, *clips)
    found["classifier"] = Component("head", "", features, classes, rows, mels, *clips)
    return found


def logmel_shape(front_end: FrontEnd | str, seconds: float, batch: int) -> tuple[int, int, int]:
    """(B, T, F) of a batch of clips of one length.

    Raises
    ------
    WeakAudioError
        An unknown front end, no clips, or clips without a sample.
    """
    fe = _preset(front_end)
    if not (isfinite(seconds) and sample_count(fe, seconds) >= 1):
        raise WeakAudioError(f"clips of {seconds} s: expected more than 0, and a sample at least")
    if batch < 1:
        raise WeakAudioError(f"a batch of {batch} clips: expected 1 or more")
    return batch, fe.n_frames(sample_count(fe, seconds)), fe.n_mels


def sample_count(front_end: FrontEnd, seconds: float) -> int:
    """N, the samples of a clip at the front end's rate."""
    return round(seconds * front_end.sample_rate)


def _preset(front_end: FrontEnd | str) -> FrontEnd:
    if isinstance(front_end, str):
        return get_front_end(front_end)
    try:
        known = get_front_end(front_end.name)
    except WeakAudioError:
        known = None
    if known != front_end:
        raise WeakAudioError(
            f"front end {front_end.name!r}: is no preset, and a latency table knows front ends by the presets' names"
        )
    return front_end


def _operator_of_each_block(operators: str, count: int) -> list[str]:
    """Names joined by "+" take turns."""
    names = operators.split("+")
    for name in names:
        if name not in OPERATORS:
            raise WeakAudioError(f"operator {name!r}: unknown; there are {', '.join(OPERATORS)}")
    return [names[n % len(names)] for n in range(count)]
