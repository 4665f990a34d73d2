"""N_S the plain way: a sequence of convolution, batch normalisation, ReLU and pooling, as released."""

from __future__ import annotations

from torch import Tensor, nn

from weakaudio.networks import WeakCNN

_CHANNELS = (16, 32, 64, 128, 256, 512)


class PlainNS(nn.Module):
    """The layers of arXiv 1711.01369, table 1, over log-mels of 128 mels, nothing fused, nothing skipped."""

    def __init__(self, n_classes: int, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for number, channels in enumerate(round(c * width) for c in _CHANNELS):
            for _ in range(2 if number < 5 else 1):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        wide = round(1024 * width)
        layers += [nn.Conv2d(inputs, wide, 2), nn.BatchNorm2d(wide), nn.ReLU()]
        layers += [nn.Conv2d(wide, n_classes, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, logmel: Tensor) -> Tensor:
        """Clip probabilities (B, C) of log-mels (B, T, 128)."""
        segments: Tensor = self.layers(logmel[:, None])  # (B, C, S, 1)
        return segments.mean((2, 3))


def plain_copy(network: WeakCNN, width: float = 1.0) -> PlainNS:
    """A `PlainNS` with the weights of a `WeakCNN` that is not fused."""
    plain = PlainNS(network.classifier.out_features, width)
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    ours = [module for module in network.modules() if isinstance(module, kinds)]
    *theirs, last = [module for module in plain.modules() if isinstance(module, kinds)]
    for target, source in zip(theirs, ours, strict=True):
        target.load_state_dict(source.state_dict())
    classifier = network.classifier
    last.load_state_dict({"weight": classifier.weight[:, :, None, None], "bias": classifier.bias})
    return plain.train(network.training)
