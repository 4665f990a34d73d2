"""What a `FlashCNN` is made of: the pieces whose times add up to its latency."""

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

PIECES = ("front end", "stem", "entry", "block", "last", "head")


class Key(NamedTuple):
    """A piece of a network, and what it is given."""

    piece: str
    """one of `PIECES`"""
    operator: str
    """of a block; of a front end, its name; else empty"""
    inputs: int
    """channels in; D for the head, 1 for the front end"""
    outputs: int
    """channels out; C for the head, 1 for the front end"""
    rows: int
    """of its input; of the front end, T of its output"""
    mels: int
    """of its input; of the front end, F of its output"""
    batch: int
    seconds: float
    """length of a clip"""
    dtype: str
    """float32 or bfloat16, as for `Embedder`; in a table in 8 bits float32, of what is not in 8 bits"""

    def __str__(self) -> str:
        name = f"{self.piece} {self.operator}".strip()
        return (
            f"{name}, {self.inputs} to {self.outputs} channels, {self.rows} x {self.mels}, "
            f"{self.batch} x {self.seconds:g} s, {self.dtype}"
        )


def pieces(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, dtype: str = "float32"
) -> dict[Key, int]:
    """The pieces of a network, and how many there are of each.

    Parameters
    ----------
    config
        Of a `FlashCNN`; without `n_mels`, those of the front end.
    front_end
        One of the presets, or a decimated one; or its name.
    seconds
        Length of each clip.
    batch
        Clips, all of that length.
    dtype
        "float32" or "bfloat16".

    Raises
    ------
    WeakAudioError
        As `logmel_shape`; no such operator or dtype, a config that lacks something or is of another number of mels.
    """
    return dict(Counter(named_pieces(config, front_end, seconds, batch, dtype).values()))


def named_pieces(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, dtype: str = "float32"
) -> dict[str, Key]:
    """The pieces of a network in the order of the signal, by the names that their modules have in a `FlashCNN`; the
    front end by "logmel". As `pieces`.
    """
    if dtype not in DTYPES:
        raise WeakAudioError(f"dtype {dtype!r}: unknown; there are {', '.join(DTYPES)}")
    fe = _known(front_end)
    _, rows, mels = logmel_shape(fe, seconds, batch)
    try:
        stages = [(str(operators), int(count), int(width)) for operators, count, width in config["stages"]]
        features, classes = int(config["n_features"]), int(config["n_classes"])
    except KeyError as error:
        raise WeakAudioError(f"network: its config has no {error}") from error
    except (TypeError, ValueError) as error:
        raise WeakAudioError(f"network: stages {config['stages']!r} cannot be so ({error})") from error
    if config.get("n_mels", mels) != mels:
        raise WeakAudioError(f"network of {config['n_mels']} mels: the front end {fe.name!r} has {mels}")

    given = batch, float(seconds), dtype
    found = {"logmel": Key("front end", fe.name, 1, 1, rows, mels, *given)}
    inputs = 1
    for n, (operators, count, width) in enumerate(stages):
        found[f"entries.{n}"] = Key("entry" if n else "stem", "", inputs, width, rows, mels, *given)
        for _ in range(1 if n else 2):
            rows, mels = halve(rows, "all"), mels // 2
        for m, operator in enumerate(_turns(operators, count)):
            found[f"stages.{n}.{m}"] = Key("block", operator, width, width, rows, mels, *given)
        inputs = width
    found["last"] = Key("last", "", inputs, features, rows, mels, *given)
    found["classifier"] = Key("head", "", features, classes, rows, mels, *given)
    return found


def logmel_shape(front_end: FrontEnd | str, seconds: float, batch: int) -> tuple[int, int, int]:
    """(B, T, F) of a batch of clips of one length.

    Raises
    ------
    WeakAudioError
        No such front end, no clips, or clips without a sample.
    """
    fe = _known(front_end)
    if not (isfinite(seconds) and sample_count(fe, seconds) >= 1):
        raise WeakAudioError(f"clips of {seconds} s: expected more than 0, and a sample at least")
    if batch < 1:
        raise WeakAudioError(f"a batch of {batch} clips: expected 1 or more")
    return batch, fe.n_frames(sample_count(fe, seconds)), fe.n_mels


def sample_count(front_end: FrontEnd, seconds: float) -> int:
    """Samples of a clip."""
    return round(seconds * front_end.sample_rate)


def _known(front_end: FrontEnd | str) -> FrontEnd:
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


def _turns(operators: str, count: int) -> list[str]:
    """The operator of each block of a stage: names joined by "+" take turns."""
    names = operators.split("+")
    for name in names:
        if name not in OPERATORS:
            raise WeakAudioError(f"operator {name!r}: unknown; there are {', '.join(OPERATORS)}")
    return [names[n % len(names)] for n in range(count)]
