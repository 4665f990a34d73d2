"""The recurrence by matrix products, for ONNX.

Tracing unrolls Python's loop over chunks to the length of its example, so that a file would fit clips of one length
only; products over all pairs of chunks have no loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.networks.operators import recurrence

_CHUNK = 64


@contextmanager
def without_loops() -> Iterator[None]:
    """Replace the recurrence of networks by `product_linear_attention` within the block, in all threads."""
    looped = recurrence.gated_linear_attention
    recurrence.gated_linear_attention = product_linear_attention  # type: ignore[assignment]
    try:
        yield
    finally:
        recurrence.gated_linear_attention = looped


def product_linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, forward: Tensor, backward: Tensor
) -> Tensor:
    """`gated_linear_attention` whose memory passes between chunks by one product over all pairs of chunks.

    Parameters
    ----------
    queries, keys, values
        (B, heads, T, width); T at least 1.
    forward, backward
        (B, heads, T), logarithms of gates in (0, 1].

    Returns
    -------
    (B, heads, T, width)
    """
    # Counted, since after a reshape torch's exporter fixes sizes to those of its example.
    rows = (forward[0, 0] <= 0).sum()
    n_chunks = (rows + _CHUNK - 1) // _CHUNK

    def cut(x: Tensor) -> Tensor:
        """(B, heads, T, width) to (B, heads, n, chunk, width)"""
        return F.pad(x, (0, 0, 0, _CHUNK - 1))[:, :, : n_chunks * _CHUNK].unflatten(2, (-1, _CHUNK))

    queries, keys, values = cut(queries), cut(keys), cut(values)
    since, own = cut(forward[..., None]).cumsum(3), cut(backward[..., None])
    until = own.cumsum(3)
    end, total, until = since[..., -1:, :], until[..., -1:, :], until - own  # until: of the rows before each

    earlier = torch.ones(_CHUNK, _CHUNK, dtype=torch.bool, device=queries.device).tril()
    decay = torch.where(earlier, since - since.transpose(3, 4), until.transpose(3, 4) - until).exp()
    y = (queries @ keys.transpose(3, 4) * decay) @ values
    made = (keys * (end - since).exp()).transpose(3, 4) @ values  # (B, heads, n, width, width)
    y = y + (queries * since.exp()) @ _carried(made, end.flatten(2))
    made = (keys * until.exp()).transpose(3, 4) @ values
    carried = _carried(made.flip(2), total.flatten(2).flip(2)).flip(2)
    y = y + (queries * (total - until).exp()) @ carried
    return y.flatten(2, 3)[:, :, :rows]


def _carried(made: Tensor, decay: Tensor) -> Tensor:
    """The memory at the start of each chunk, from what each chunk adds to it and from the logarithm (B, heads, n) of
    its decay in each."""
    decay = decay.double()  # differences of long sums
    ends = decay.cumsum(2)
    between = (ends - decay)[..., None] - ends[..., None, :]  # from the end of the one to the start of the other
    fade = between.tril(-1).exp().tril(-1).to(made.dtype)
    return (fade @ made.flatten(3)).unflatten(3, (made.shape[3], -1))
