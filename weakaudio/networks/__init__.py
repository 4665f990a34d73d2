"""Networks in plain torch, from a log-mel to segment and clip scores, under one contract (`Network`)."""

from __future__ import annotations

from typing import Any

from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Network, Output
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.mobilenet import MobileNet
from weakaudio.networks.panns import Cnn14
from weakaudio.networks.stacked import StackedNetwork
from weakaudio.networks.weakcnn import WeakCNN, WindowedCNN

NETWORKS: dict[str, type[Network]] = {
    "weakcnn": WeakCNN,
    "windowed-cnn": WindowedCNN,
    "mobilenet": MobileNet,
    "cnn14": Cnn14,
    "flash": FlashCNN,
    "stacked": StackedNetwork,
}


def build_network(name: str, **config: Any) -> Network:
    """Build a network by its name in `NETWORKS`, with its constructor's arguments.

    Raises
    ------
    WeakAudioError
        Unknown name, or invalid arguments.
    """
    if name not in NETWORKS:
        raise WeakAudioError(f"network {name!r}: unknown; there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**config)
    except TypeError as error:
        raise WeakAudioError(f"network {name!r}: {error}") from error


def network_name(network: Network) -> str:
    """Name of a network's class in `NETWORKS`."""
    return next(name for name, cls in NETWORKS.items() if cls is type(network))


__all__ = [
    "NETWORKS",
    "Cnn14",
    "FlashCNN",
    "MobileNet",
    "Network",
    "Output",
    "StackedNetwork",
    "WeakCNN",
    "WindowedCNN",
    "build_network",
    "network_name",
]
