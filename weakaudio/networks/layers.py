"""Shared layers: convolution with batch normalisation, and masking of what lies past the end of a clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from weakaudio.audio.geometry import length_mask


class ConvNorm(nn.Module):
    """Convolution and batch normalisation, which `fold_norms` merges for inference."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        padding: int | tuple[int, int],
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


def fold_norms(network: nn.Module) -> None:
    """Fold the batch normalisation of each `ConvNorm`, in place, and set weights to channels-last memory format."""
    network.eval()
    for layer in network.modules():
        if isinstance(layer, ConvNorm) and isinstance(layer.norm, nn.BatchNorm2d):
            layer.conv, layer.norm = fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def clip_lengths(logmel: Tensor, lengths: Tensor | None) -> Tensor:
    """(B,) frames of each clip of a log-mel (B, T, F): `lengths`, or all T if that is None."""
    return torch.full((logmel.shape[0],), logmel.shape[1], device=logmel.device) if lengths is None else lengths


def ragged(lengths: Tensor, size: int) -> Tensor | None:
    """`lengths`, or None if all clips fill `size` rows, which saves `clear` a pass over memory.

    The lengths cannot be read while a CUDA graph is captured; then they are returned in any case.
    """
    if lengths.is_cuda and torch.cuda.is_current_stream_capturing():
        return lengths
    return None if bool((lengths == size).all()) else lengths


def clear(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero x (B, channels, T, F) past the end of each clip; `lengths` (B,) are rows, None: all T."""
    return x if lengths is None else x.masked_fill(~length_mask(lengths, x.shape[2])[:, None, :, None], 0.0)
