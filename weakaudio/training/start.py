"""Another model's weights for a student to begin with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from weakaudio.errors import ProtocolError
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model


def begin_with(model: Model, start: str) -> None:
    """Give a model the weights of another one, which may hear other frames of the same log-mel.

    Parameters
    ----------
    start
        Name or path of the other model.

    Raises
    ------
    CheckpointError
        No such model.
    ProtocolError
        It is of another network, other classes or another log-mel.
    """
    other = load_model(start)
    ours, theirs = _facts(model), _facts(other)
    for name in (*ours, *(name for name in theirs if name not in ours)):
        if ours.get(name) != theirs.get(name):
            raise ProtocolError(
                f"{start}: a student cannot begin with it: "
                f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} in the student"
            )
    model.network.load_state_dict(other.network.state_dict())


def _facts(model: Model) -> dict[str, Any]:
    """What has to be the same, each under a name that says what it is."""
    log_mel = {f"the log-mel's {name}": value for name, value in asdict(model.front_end).items()}
    for name in ("name", "hop_length"):
        del log_mel[f"the log-mel's {name}"]
    network = {f"the network's {name}": value for name, value in model.network.config.items()}
    classes = {f"class {n}": label for n, label in enumerate(model.labels)}
    return {"the network": type(model.network).__name__, **network, **log_mel, **classes}
