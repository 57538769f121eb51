"""Vectors of IBM's activation-steering: a ``.svec``, JSON with ``{"directions": {"l": [...], ...}}``.

Direction l is estimated at the output of block l, emoreg's layer l, though that library then adds it to the *input* of
block l, which is the output of block l - 1.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoreg.vectors import Directions
from emoreg.vectors.formats.foreign import contents, directions_of


def read_svec(path: str | Path, emotion: str | None = None, *, offset: int = 0) -> Directions:
    """Directions of a steering vector. Arguments are as in `emoreg.vectors.formats.read_directions`.

    Raises:
        ValueError: for every file that is no whole JSON of finite numbers, one list of one length for each block.
    """
    data = contents(path)
    try:
        found = json.loads(data, object_pairs_hook=_distinct)
        directions = found.get("directions") if isinstance(found, dict) else None
        if not isinstance(directions, dict):
            raise ValueError("it has no table of directions")
        pushes = {_block(key): _vector(key, values) for key, values in directions.items()}
        name = emotion or Path(path).stem
        return directions_of(pushes, data=data, emotion=name, method="steering vector of an .svec file", offset=offset)
    except RecursionError:
        raise ValueError(f"{path} is no steering vector that can be read: it nests too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is no steering vector that can be read: {error}; save or copy it again") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it has a key twice")
    return table


def _block(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 6 and str(int(key)) == key):
        raise ValueError(f"{key[:40]!r} is no block number")
    return int(key)


def _vector(key: str, values: Any) -> Tensor:
    good = isinstance(values, list) and values and all(type(value) in (int, float) for value in values)
    if not good or not all(-1e300 < value < 1e300 for value in values):  # nor is NaN
        raise ValueError(f"direction {key} is no list of finite numbers")
    return torch.tensor(values, dtype=torch.float64)
