"""Reference operators: plain loops over the rows of one clip, in float64; a function for each name in `OPERATORS`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weakaudio.networks.layers import ConvNorm
from weakaudio.networks.operators import Operator

Array = NDArray[np.float64]


def plain(name: str, operator: Operator, x: Array) -> Array:
    """Output (channels, T, n_mels) for an input of that shape, with an operator's weights in eval mode."""
    return globals()[name.replace("-", "_")](operator, x)


def dense(operator: Operator, x: Array) -> Array:
    return relu(x + conv_norm(operator.second, relu(conv_norm(operator.first, x))))


def inverted(operator: Operator, x: Array) -> Array:
    y = relu(conv_norm(operator.depthwise, relu(conv_norm(operator.expand, x))))
    return x + conv_norm(operator.project, y)


def large_kernel(operator: Operator, x: Array) -> Array:
    y = relu(conv(operator.expand, conv_norm(operator.depthwise, x)))
    return x + conv_norm(operator.project, y)


def frequency(operator: Operator, x: Array) -> Array:
    y = conv_norm(operator.first, x)
    for channel in range(y.shape[0]):
        for mel in range(y.shape[2]):
            scale, shift = (numbers(bands)[mel, channel] for bands in (operator.scale, operator.shift))
            y[channel, :, mel] = y[channel, :, mel] * scale + shift
    return relu(x + conv_norm(operator.second, relu(y)))


def attention(operator: Operator, x: Array) -> Array:
    tokens = conv_norm(operator.project, x)[:, :, 0].T  # (T, 3 heads width)
    queries, keys, values = tokens.reshape(len(tokens), 3, operator.heads, -1).transpose(1, 2, 0, 3)
    read = np.zeros_like(queries)  # (heads, T, width)
    for head in range(operator.heads):
        for t in range(len(tokens)):
            likeness = np.exp(keys[head] @ queries[head, t] / np.sqrt(queries.shape[2]))
            read[head, t] = likeness @ values[head] / likeness.sum()
    return x + from_tokens(operator, read, x.shape)


def recurrence(operator: Operator, x: Array) -> Array:
    tokens = conv_norm(operator.project, x)[:, :, 0].T
    heads, width = operator.heads, operator.width
    parts, gates = tokens[:, : 4 * heads * width], tokens[:, 4 * heads * width :]
    queries, keys, values, out = parts.reshape(len(tokens), 4, heads, width).transpose(1, 2, 0, 3)
    decays = np.log(1 / (1 + np.exp(-gates))).T.reshape(2, heads, -1) / 16
    read = gated_linear_attention(queries, keys, values, decays[0], decays[1])
    for head in range(heads):
        for t in range(len(tokens)):
            read[head, t] /= np.sqrt(np.mean(read[head, t] ** 2) + 1e-5)
    return x + from_tokens(operator, read * out / (1 + np.exp(-out)), x.shape)


def gated_linear_attention(queries: Array, keys: Array, values: Array, forward: Array, backward: Array) -> Array:
    """Row by row, from (heads, T, width) and (heads, T)."""
    heads, rows, width = queries.shape
    read = np.zeros_like(values)
    for head in range(heads):
        memory = np.zeros((width, width))
        for t in range(rows):
            memory = np.exp(forward[head, t]) * memory + np.outer(keys[head, t], values[head, t])
            read[head, t] += queries[head, t] @ memory
        memory = np.zeros((width, width))
        for t in reversed(range(rows)):
            memory = np.exp(backward[head, t]) * memory
            read[head, t] += queries[head, t] @ memory
            memory = memory + np.outer(keys[head, t], values[head, t])
    return read


def from_tokens(operator: Operator, read: Array, shape: tuple[int, ...]) -> Array:
    """Map (channels, T, n_mels) of (heads, T, width); the outputs of a token are ordered by mel, then channel."""
    channels, rows, n_mels = shape
    tokens = read.transpose(1, 0, 2).reshape(rows, -1)
    written = conv_norm(operator.out, tokens.T[:, :, None])[:, :, 0]
    y = np.zeros(shape)
    for mel in range(n_mels):
        y[:, :, mel] = written[mel * channels : (mel + 1) * channels]
    return y


def conv_norm(layer: ConvNorm, x: Array) -> Array:
    y, norm = conv(layer.conv, x), layer.norm
    mean, var, gain, bias = (
        numbers(values)[:, None, None] for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (y - mean) / np.sqrt(var + norm.eps) * gain + bias


def conv(layer: nn.Conv2d, x: Array) -> Array:
    weight = numbers(layer.weight)
    outputs, inputs, tall, wide = weight.shape
    high, side = layer.padding
    padded = np.pad(x, [(0, 0), (high, high), (side, side)])
    y = np.zeros((outputs, padded.shape[1] - tall + 1, padded.shape[2] - wide + 1))
    for o in range(outputs):
        first = o // (outputs // layer.groups) * inputs
        for t in range(y.shape[1]):
            for f in range(y.shape[2]):
                y[o, t, f] = np.sum(weight[o] * padded[first : first + inputs, t : t + tall, f : f + wide])
    return y if layer.bias is None else y + numbers(layer.bias)[:, None, None]


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def numbers(values: torch.Tensor) -> Array:
    return values.detach().double().numpy()
