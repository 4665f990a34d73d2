from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from table_stand_ins import CONFIG, GIVEN
from torch import Tensor, nn

from weakaudio.audio.frontend import FrontEnd
from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import Component, count_components
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.operators import OPERATORS


@pytest.mark.parametrize("operator", OPERATORS)
def test_components_are_those_that_a_network_runs(operator: str) -> None:
    """Against what its layers are given, at a length of which each map has an odd row."""
    stages = [[operator, 1, 8], ["dense", 0, 16], [f"dense+{operator}", 3, 16], [operator, 1, 24]]
    config = {**CONFIG, "stages": stages}
    found: Counter[tuple[str, int, int, int]] = Counter()
    network = FlashCNN(**config).fuse()
    assert isinstance(network, FlashCNN)

    def watch(name: str, layer: nn.Module) -> None:
        def saw(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            _, channels, rows, mels = inputs[0].shape
            found[name, channels, rows, mels] += 1

        layer.register_forward_pre_hook(saw)

    for n, (entry, blocks) in enumerate(zip(network.entries, network.stages, strict=True)):
        watch("entry" if n else "stem", entry)
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            watch(next(name for name, kind in OPERATORS.items() if type(block) is kind), block)
    watch("last", network.last)
    rows = 138
    with torch.inference_mode():
        network(torch.zeros(2, rows, 64))
    parts = count_components(config, *GIVEN)
    expected: Counter[tuple[str, int, int, int]] = Counter()
    for key, count in parts.items():
        if key.kind not in ("front end", "head"):
            expected[key.operator or key.kind, key.inputs, key.rows, key.mels] += count
    assert found == expected
    given = (2, 1.37, "float32")
    assert parts[Component("front end", "16k", 1, 1, rows, 64, *given)] == 1
    assert parts[Component("head", "", 7, 5, 5, 2, *given)] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": 0.0}, "clips of 0.0 s: expected more than 0"),
        ({"seconds": -1.0}, "clips of -1.0 s"),
        ({"seconds": float("nan")}, "clips of nan s"),
        ({"seconds": float("inf")}, "clips of inf s"),
        ({"seconds": 1e-9}, "a sample at least"),
        ({"batch": 0}, "a batch of 0 clips"),
        ({"dtype": "float16"}, "dtype 'float16': unknown; there are float32, bfloat16"),
        ({"front_end": "12k"}, "front end '12k': unknown"),
        ({"front_end": FrontEnd("16k", 16000, 512, 80, 64)}, "front end '16k': is no preset"),
        ({"front_end": "32k"}, "network of 64 mels: the front end '32k' has 128"),
        ({"config": {**CONFIG, "stages": [["magic", 1, 4]]}}, "operator 'magic': unknown; there are dense"),
        ({"config": {**CONFIG, "stages": [["dense", 1]]}}, "invalid stages"),
        ({"config": {"stages": [], "n_features": 3}}, "config has no 'n_classes'"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], words: str) -> None:
    asked = {"config": CONFIG, "front_end": "16k", "seconds": 1.37, "batch": 2, **change}
    with pytest.raises(WeakAudioError, match=words):
        count_components(**asked)
