"""Bidirectional linear recurrence over time, in linear time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.audio.geometry import length_mask
from weakaudio.networks.layers import clear
from weakaudio.networks.operators.attention import FromTokens, ToTokens, head_shape
from weakaudio.networks.operators.operator import Operator

_CHUNK = 64
_SLOWNESS = 16  # a gate is the 16th root of a sigmoid: initially a memory of some dozens of rows
_EPS = 1e-5


class Recurrence(Operator):
    """Gated linear attention (Yang et al., arXiv 2312.06635) with one gate a head, as Mamba-2 has (Dao and Gu, arXiv
    2405.21060), forward and backward with the same queries, keys and values.

    A token is a row with all its channels and mels. The output of a head is normalised to unit mean square and
    multiplied by a gate of the row.
    """

    reach = None

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        self.heads, self.width = head_shape(channels)
        self.inner = self.heads * self.width
        self.project = ToTokens(channels, n_mels, 4 * self.inner + 2 * self.heads)
        self.out = FromTokens(self.inner, channels, n_mels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        tokens = self.project(x)
        with torch.autocast(x.device.type, enabled=False):
            exact = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            parts, gates = exact.split([4 * self.inner, 2 * self.heads], dim=2)
            parts = parts.unflatten(2, (4, self.heads, self.width))
            queries, keys, values, out_gate = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, width)
            decays = F.logsigmoid(gates).unflatten(2, (2, self.heads)).permute(2, 0, 3, 1) / _SLOWNESS
            if lengths is not None:
                values = values * length_mask(lengths, x.shape[2])[:, None, :, None]
            y = gated_linear_attention(queries, keys, values, decays[0], decays[1], loops=not torch.jit.is_tracing())
            y = y * (y.square().mean(3, keepdim=True) + _EPS).rsqrt() * F.silu(out_gate)
        return clear(x + self.out(y.transpose(1, 2).flatten(2)), lengths)


def gated_linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    forward: Tensor,
    backward: Tensor,
    chunk: int = _CHUNK,
    loops: bool = True,
) -> Tensor:
    """Bidirectional gated linear attention, computed in chunks.

    With k_t v_t^T the outer product of a row's key and value, and S and R zero outside the rows,

        S_t = exp(forward_t)  S_{t-1} + k_t v_t^T
        R_t = exp(backward_t) R_{t+1} + k_t v_t^T
        y_t = q_t (S_t + exp(backward_t) R_{t+1})

    All pairs of rows within a chunk are computed at once; S and R are carried between chunks (section 4.1 of arXiv
    2312.06635, section 6 of 2405.21060). Decays are summed within a chunk only, and every exponent is at most 0, so
    nothing overflows.

    Parameters
    ----------
    queries, keys, values
        (B, heads, T, width); T at least 1.
    forward, backward
        (B, heads, T), logarithms of gates in (0, 1].
    chunk
        Rows; affects speed only.
    loops
        False: S and R are carried by products over all pairs of chunks, in quadratic time. Tracing would unroll a
        loop to the length of its example.

    Returns
    -------
    (B, heads, T, width)
    """
    rows: Any
    if loops:
        rows = queries.shape[2]
        chunk = min(chunk, rows)
    else:
        rows = (forward[0, 0] <= 0).sum()  # after a reshape torch's exporter fixes sizes to those of its example
    n_chunks = (rows + chunk - 1) // chunk

    def cut(x: Tensor) -> Tensor:
        """(B, heads, T, width) to (B, heads, n, chunk, width), zero-padded at the end"""
        return F.pad(x, (0, 0, 0, chunk - 1))[:, :, : n_chunks * chunk].unflatten(2, (-1, chunk))

    queries, keys, values = cut(queries), cut(keys), cut(values)
    since, step = cut(forward[..., None]).cumsum(3), cut(backward[..., None])  # (B, heads, n, chunk, 1)
    until = step.cumsum(3)
    total, until = until[..., -1:, :], until - step  # until: over the rows before each

    earlier = torch.ones(chunk, chunk, dtype=torch.bool, device=queries.device).tril()
    decay = torch.where(earlier, since - since.transpose(3, 4), until.transpose(3, 4) - until).exp()
    y = (queries @ keys.transpose(3, 4) * decay) @ values
    if not loops or n_chunks > 1:
        carry = _carry if loops else _carry_at_once
        end = since[..., -1:, :]
        added = (keys * (end - since).exp()).transpose(3, 4) @ values  # (B, heads, n, width, width)
        y = y + (queries * since.exp()) @ carry(added, end)
        added = (keys * until.exp()).transpose(3, 4) @ values
        y = y + (queries * (total - until).exp()) @ carry(added.flip(2), total.flip(2)).flip(2)
    return y.flatten(2, 3)[:, :, :rows]


def _carry(added: Tensor, decay: Tensor) -> Tensor:
    """Memory at the start of each chunk, from the contribution of each and the logarithm of its decay."""
    decay = decay.exp()
    memory = torch.zeros_like(added[:, :, 0])
    before = []
    for n in range(added.shape[2]):
        before.append(memory)
        memory = decay[:, :, n] * memory + added[:, :, n]
    return torch.stack(before, 2)


def _carry_at_once(added: Tensor, decay: Tensor) -> Tensor:
    """`_carry` without a loop."""
    decay = decay.flatten(2).double()  # differences of long sums
    ends = decay.cumsum(2)
    between = (ends - decay)[..., None] - ends[..., None, :]  # from the end of the one to the start of the other
    fade = between.tril(-1).exp().tril(-1).to(added.dtype)
    return (fade @ added.flatten(3)).unflatten(3, (added.shape[3], -1))
