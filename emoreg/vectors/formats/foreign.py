"""What the readers of other libraries' files have in common.

Shapes: D width.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from emoreg import checks
from emoreg.vectors import Directions

LARGEST = 2**30
"""Bytes. The directions of a model of 405 B take 8 MB; what is larger than this is a model, or a mistake."""

_SHORTEST, _LONGEST = 1e-30, 1e30  # what fp32 holds without losing digits


def contents(path: str | Path) -> bytes:
    """All bytes of a file of directions.

    Raises:
        ValueError: if it is missing, cannot be read, or is too large to be one.
    """
    if not os.path.isfile(path):
        raise ValueError(f"no file at {path}; give the path of a file of directions")
    if (size := os.path.getsize(path)) > LARGEST:
        raise ValueError(f"{path} has {size} bytes, a file of directions at most {LARGEST}; is it a model?")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error})") from None


def directions_of(
    pushes: Mapping[int, Tensor],
    *,
    data: bytes,
    emotion: str,
    method: str,
    token_rule: str = "unknown",
    offset: int = 0,
) -> Directions:
    """Directions of a file's vectors, each (D,), under the numbers of their blocks.

    Raises:
        ValueError: for none, unequal widths, values that are not finite, a vector of zeros, or a block below 0.
    """
    checks.text("emotion", emotion)
    checks.integer("offset", offset, -1_000_000)
    if not pushes:
        raise ValueError("it holds no direction")
    if min(pushes) + offset < 0:
        raise ValueError(f"offset {offset} makes block {min(pushes)} into {min(pushes) + offset}; blocks count from 0")
    layers = sorted(pushes)
    for layer in layers:
        if pushes[layer].shape != pushes[layers[0]].shape or pushes[layer].ndim != 1:
            raise ValueError(
                f"its vectors have shapes {sorted({tuple(one.shape) for one in pushes.values()})}, not one"
            )
    shift_LD = torch.stack([pushes[layer].double() for layer in layers])
    length_L = shift_LD.norm(dim=-1)
    for layer, length in zip(layers, length_L.tolist(), strict=True):
        if not _SHORTEST < length < _LONGEST:  # not so either where a value is NaN or infinite
            raise ValueError(f"the vector of block {layer} has length {length:g}; expected a finite one, not 0")
    return Directions(
        emotions=(emotion,),
        layers=tuple(layer + offset for layer in layers),
        directions=(shift_LD / length_L[:, None])[:, None],
        shift=shift_LD[:, None],
        method=method,
        token_rule=token_rule,
        corpus_hash=hashlib.sha256(data).hexdigest(),
    )
