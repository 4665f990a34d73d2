"""The log-mel by matrix products, for ONNX.

ONNX Runtime runs them faster than its STFT operator, and than a convolution with sines and cosines.
"""

from __future__ import annotations

from math import isqrt, log

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.frontend import _AMIN, LogMel


class ProductLogMel(nn.Module):
    """`LogMel` for clips of one length, by matrix products.

    The Fourier transform of n_fft = P * Q samples takes two steps (Cooley and Tukey 1965): with n = Q p + q and
    k = u + P v,

        X[u + P v] = sum_q exp(-2 pi i q (u + P v) / n_fft) sum_p exp(-2 pi i p u / P) x[Q p + q]

    which costs P + 2 Q products per sample rather than P Q. For real samples u up to P / 2 is enough: the other bins
    are conjugates of these.

    Parameters
    ----------
    logmel
        Provides the front end, the window and the filters.
    """

    window: Tensor
    inner: Tensor
    outer: Tensor
    filters: Tensor

    def __init__(self, logmel: LogMel) -> None:
        super().__init__()
        self.numbers = fe = logmel.front_end
        size = fe.n_fft
        self.p = next(p for p in range(isqrt(size - 1) + 1, size + 1) if size % p == 0) if size > 1 else 1
        self.q = size // self.p
        u, p = np.arange(self.p // 2 + 1), np.arange(self.p)
        q = v = np.arange(self.q)
        k = u[:, None] + self.p * v  # (U, Q)
        inner = np.exp(-2j * np.pi / self.p * np.outer(u, p))  # (U, P)
        outer = np.exp(-2j * np.pi / size * q[:, None] * k[:, None])  # (U, Q, Q)
        products = np.block([[outer.real, outer.imag], [-outer.imag, outer.real]])  # of (real, imaginary) rows
        bins = np.minimum(k, size - k).ravel()
        _, first = np.unique(bins, return_index=True)  # some occur twice
        filters = np.zeros((len(bins), fe.n_mels), np.float32)
        filters[first] = logmel.filters.numpy()[bins[first]]
        self.register_buffer("window", logmel.window)
        self.register_buffer("inner", torch.from_numpy(np.concatenate([inner.real, inner.imag])).to(self.window))
        self.register_buffer("outer", torch.from_numpy(products).to(self.window))
        self.register_buffer("filters", torch.from_numpy(filters))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, N) at the front end's rate to (B, T, F)."""
        fe = self.numbers
        frames = self._frames(waveform.to(self.window.dtype)) * self.window
        n_clips, n_frames, wide = frames.shape[0], frames.shape[1], len(self.inner) // 2
        x = self.inner @ frames.reshape(-1, self.p, self.q)  # (B T, 2 U, Q)
        x = x.reshape(-1, 2, wide, self.q).permute(2, 0, 1, 3).reshape(wide, -1, 2 * self.q)
        x = (x @ self.outer).square()  # (U, B T, 2 Q)
        power = (x[..., : self.q] + x[..., self.q :]).transpose(0, 1).reshape(n_clips, n_frames, wide * self.q)
        level = (power.float() @ self.filters + fe.offset).clamp(min=_AMIN).log() * (10 / log(10))
        if fe.top_db is not None:
            level = torch.maximum(level, level.amax((1, 2), keepdim=True) - fe.top_db)
        return (level + fe.shift) * fe.gain

    def _frames(self, waveform: Tensor) -> Tensor:
        """(B, T, n_fft)"""
        fe = self.numbers
        if fe.pre_emphasis:
            waveform = waveform[:, 1:] - fe.pre_emphasis * waveform[:, :-1]
        half, hop = fe.n_fft // 2, fe.hop_length
        n_frames = 1 + waveform.shape[1] // hop
        waveform = _mirrored(waveform, half) if fe.edges == "reflect" else F.pad(waveform, (half, half))
        hops = -(-fe.n_fft // hop)  # per frame
        n_hops = n_frames + hops - 1
        blocks = F.pad(waveform, (0, hops * hop))[:, : n_hops * hop].reshape(-1, n_hops, hop)
        return torch.cat([blocks[:, n : n + n_frames] for n in range(hops)], 2)[..., : fe.n_fft]


def _mirrored(waveform: Tensor, pad: int) -> Tensor:
    """(B, pad + N + pad): clips mirrored at their ends, repeatedly if they are shorter than `pad`."""
    steps = torch.arange(1, pad + 1)
    last = (torch.zeros_like(steps) + waveform.shape[1] - 1).clamp(min=0)
    at_least_one = F.pad(waveform, (0, 1))  # a clip without samples is silence
    period = (2 * last).clamp(min=1)

    def outside(position: Tensor) -> Tensor:
        position = position.remainder(period)
        return at_least_one[:, torch.minimum(torch.minimum(position, period - position), last)]

    return torch.cat([outside(-steps.flip(0)), waveform, outside(last + steps)], 1)
