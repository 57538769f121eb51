"""The bytes of a GGUF file that holds fp32 vectors called ``direction.N`` and nothing else.

Read and written here, not by the gguf package: its reader believes the lengths that a file claims.
"""

import math
import re
import struct
from typing import Any

import torch
from torch import Tensor

_MAGIC, _VERSIONS, _ALIGNMENT = b"GGUF", (2, 3), 32
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, INT32, _STRING, _ARRAY = 4, 5, 8, 9
_F32 = 0
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")


def to_bytes(strings: dict[str, str], pushes: dict[int, Tensor]) -> bytes:
    """A file of metadata and of the vectors of blocks."""
    head = _MAGIC + struct.pack("<IQQ", _VERSIONS[-1], len(pushes), len(strings) + 1)
    for key, value in strings.items():
        head += _string(key) + struct.pack("<I", _STRING) + _string(value)
    head += _string("controlvector.layer_count") + struct.pack("<II", _UINT32, len(pushes))
    body = b""
    for layer, push_D in pushes.items():
        head += _string(f"direction.{layer}") + struct.pack("<IQIQ", 1, len(push_D), _F32, len(body))
        body += _padded(push_D.numpy().astype("<f4").tobytes())
    return _padded(head) + body


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)


def parse(data: bytes) -> tuple[dict[str, tuple[int, Any]], dict[int, Tensor]]:
    """Metadata, each value with its type, and vectors by N."""
    cursor = _Cursor(data)
    if cursor.take(4) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    if (version := cursor.number("I")) not in _VERSIONS:
        raise ValueError(f"its version is {version}, expected {_VERSIONS}")
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, tuple[int, Any]] = {}
    for _ in range(cursor.fits(n_keys)):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"it has the key {key!r} twice")
        kind = cursor.number("I")
        metadata[key] = kind, cursor.value(kind)
    places = {}
    for _ in range(cursor.fits(n_tensors)):
        layer, width, begin = _place(cursor)
        if layer in places:
            raise ValueError(f"it has direction.{layer} twice")
        places[layer] = width, begin
    kind, alignment = metadata.get("general.alignment", (_UINT32, _ALIGNMENT))
    if kind != _UINT32 or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment}, expected a power of two")
    start, end, pushes = _aligned(cursor.at, alignment), 0, {}
    for layer, (width, begin) in places.items():
        if begin != end:
            raise ValueError(f"direction.{layer} begins at {begin}, expected {end}, where the last one ended")
        end += _aligned(4 * width, alignment)
        if start + end > len(data):
            raise ValueError(f"direction.{layer} ends at byte {start + end} of a file of {len(data)}")
        pushes[layer] = torch.frombuffer(bytearray(data[start + begin :][: 4 * width]), dtype=torch.float32)
    return metadata, pushes


def _place(cursor: "_Cursor") -> tuple[int, int, int]:
    """A tensor's N, its width, and where it begins."""
    name = cursor.string()
    if not (match := _NAME.fullmatch(name)):
        raise ValueError(f"it has a tensor {name[:80]!r}, expected none but direction.N")
    n_dimensions = cursor.number("I")
    if not 1 <= n_dimensions <= 4:
        raise ValueError(f"{name} has {n_dimensions} dimensions, expected 1")
    width, *others = [cursor.number("Q") for _ in range(n_dimensions)]
    if width < 1 or math.prod(others) != 1:
        raise ValueError(f"{name} has shape {[width, *others]}, expected one vector")
    if (kind := cursor.number("I")) != _F32:
        raise ValueError(f"{name} is of GGML type {kind}, expected {_F32}, fp32")
    return int(match[1]), width, cursor.number("Q")


def _aligned(at: int, alignment: int) -> int:
    return at + -at % alignment


class _Cursor:
    """Takes little-endian values off bytes, and never more than there are."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + self.fits(size)]
        self.at += size
        return taken

    def fits(self, size: int) -> int:
        """Refuse what the rest of the file cannot hold, at a byte each."""
        if size > len(self.data) - self.at:
            raise ValueError(f"it announces {size} at byte {self.at} of {len(self.data)}: cut short, or damaged")
        return size

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        item, size = (self.number("I"), self.number("Q")) if kind == _ARRAY else (None, 0)
        if item == _STRING:
            return [self.string() for _ in range(self.fits(size))]
        if item in _NUMBERS:
            return self.take(size * struct.calcsize(_NUMBERS[item]))
        raise ValueError(f"it has metadata of type {kind if item is None else item}, which llama.cpp does not know")
