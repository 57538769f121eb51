"""Tensors as JSON can hold them, for a trainer's checkpoint."""

import base64
import zlib

import numpy as np
import torch
from torch import Tensor


def to_text(value: Tensor) -> str:
    """A tensor as a line of text, exactly; histograms, mostly zero, shrink to little."""
    array = value.detach().cpu().numpy()
    packed = base64.b64encode(zlib.compress(array.tobytes())).decode()
    return f"{array.dtype.name} {'x'.join(map(str, array.shape))} {packed}"


def from_text(text: str) -> Tensor:
    """The tensor of `to_text`."""
    dtype, shape, packed = text.split(" ")
    array = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=dtype)
    return torch.from_numpy(array.reshape([int(n) for n in shape.split("x") if n]).copy())
