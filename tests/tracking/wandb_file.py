"""Reads an offline Weights & Biases run back from its `.wandb` file.

The file is a LevelDB log: after a header of its own, blocks of 32 KiB, each a row of chunks that never cross into the
next block. A record is one whole chunk, or a first, any number of middle and a last one, and holds a protobuf `Record`.
wandb's checksum is the plain CRC-32 of a chunk's type and data, not LevelDB's masked CRC-32C.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

_BLOCK = 32 * 1024
_FILE_HEADER = struct.Struct("<4sHB")  # ":W&B", magic, version
_CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, type
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Run:
    """What a run logged. Keys of nested values are joined with dots: ``{"a": {"b": 1}}`` is ``{"a.b": 1}``."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per step."""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def column(self, key: str) -> list[Any]:
        """The values of one metric, from the rows that have it."""
        return [row[key] for row in self.history if key in row]


def read(path: Path) -> Run:
    """The run in one `.wandb` file, or in the only one anywhere below a folder.

    Raises:
        ValueError: if the file is no such log, damaged or cut short, or the folder does not hold exactly one.
    """
    if path.is_dir():
        found = [file for file in path.rglob("*.wandb") if not file.is_symlink()]
        if len(found) != 1:
            raise ValueError(f"expected one .wandb file below {path}, found {len(found)}")
        path = found[0]
    wandb.teardown()  # `finish` returns before the service has written the last block; this waits until it has
    run = Run()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "run":
            run.config |= _items(record.run.config.update)
        elif kind == "config":
            run.config |= _items(record.config.update)
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
    return run


def records(log: bytes) -> Iterator[bytes]:
    """The records of a log, each checked and put together again."""
    if len(log) < _FILE_HEADER.size or _FILE_HEADER.unpack_from(log) != (b":W&B", 0xBEE1, 0):
        raise ValueError("no wandb run file: the header is another")
    at, parts = _FILE_HEADER.size, []
    while at < len(log):
        if (left := _BLOCK - at % _BLOCK) < _CHUNK_HEADER.size:  # no room for a header: zeros fill the block
            at += left
            continue
        if at + _CHUNK_HEADER.size > len(log):
            raise ValueError(f"chunk header at byte {at} is cut short")
        checksum, length, kind = _CHUNK_HEADER.unpack_from(log, at)
        start, at = at + _CHUNK_HEADER.size, at + _CHUNK_HEADER.size + length
        if at > len(log):
            raise ValueError(f"chunk at byte {start} is cut short")
        if zlib.crc32(log[start - 1 : at]) != checksum:  # the type is the header's last byte
            raise ValueError(f"chunk at byte {start} does not match its checksum")
        if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise ValueError(f"chunk at byte {start} is of type {kind} out of turn")
        parts.append(log[start:at])
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
    if parts:
        raise ValueError("the last record is cut short")


def _items(items: Iterable[Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for item in items:
        _flatten(".".join(item.nested_key) or item.key, json.loads(item.value_json), flat)
    return flat


def _flatten(key: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(f"{key}.{name}", inner, into)
    else:
        into[key] = value
