"""What the networks are built from: convolution with normalisation, and the clearing of what is past a clip's end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from weakaudio.audio.geometry import length_mask


class ConvNorm(nn.Module):
    """Convolution and batch normalisation; the one folds into the other for inference."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        padding: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(outputs, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def fold(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


def fold_norms(network: nn.Module) -> None:
    """Fold all of a network's batch normalisations, in place, and lay its weights out channels-last."""
    network.eval()
    for layer in network.modules():
        if isinstance(layer, ConvNorm):
            layer.fold()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def ragged(lengths: Tensor, size: int) -> Tensor | None:
    """None if all clips fill their rows: clearing costs a pass over memory, so they go without.

    While a CUDA graph is captured, the device may not be asked, so there they are cleared.
    """
    if lengths.is_cuda and torch.cuda.is_current_stream_capturing():
        return lengths
    return None if bool((lengths == size).all()) else lengths


def clear(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Set what lies past the end of each clip to 0; x is (B, channels, T, F)."""
    return x if lengths is None else x.masked_fill(~length_mask(lengths, x.shape[2])[:, None, :, None], 0.0)
