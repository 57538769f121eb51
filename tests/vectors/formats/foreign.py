"""Writes files as other projects do, and reads a GGUF file as llama.cpp's loader does, check by check."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _UINT32 = 8, 4


def repeng_gguf(path: Path, rows: dict[int, Tensor], model_type: str = "llama") -> Path:
    """As `ControlVector.export_gguf` of vgel/repeng writes it."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model_type)
    writer.add_uint32("controlvector.layer_count", len(rows))
    return _finish(writer, path, rows)


def generator_gguf(path: Path, rows: dict[int, Tensor]) -> Path:
    """As llama.cpp's cvector-generator writes it, with the count signed."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", len(rows))
    return _finish(writer, path, rows)


def _finish(writer: gguf.GGUFWriter, path: Path, rows: dict[int, Tensor]) -> Path:
    for layer, row in rows.items():
        writer.add_tensor(f"direction.{layer}", row.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def persona_pt(path: Path, states: Tensor) -> Path:
    """As `generate_vec.py` of safety-research/persona_vectors writes it: a row for every hidden state."""
    torch.save(states, path)
    return path


def ibm_svec(path: Path, rows: dict[int, Tensor]) -> Path:
    """As `SteeringVector.save` of IBM/activation-steering writes it."""
    data = {
        "model_type": "llama",
        "directions": {layer: row.tolist() for layer, row in rows.items()},
        "explained_variances": dict.fromkeys(rows, 0.5),
    }
    path.write_text(json.dumps(data))
    return path


class _Bytes:
    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def read(self, size: int) -> bytes:
        assert self.at + size <= len(self.data), "the file ends early"
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.read(size), "little")


def as_llama_cpp(data: bytes) -> dict[int, np.ndarray]:
    """What `common_control_vector_load_one` (common/common.cpp) makes of a file, after `gguf_init_from_file`
    (ggml/src/gguf.cpp). Each assertion is a condition under which one of them gives up.
    """
    file = _Bytes(data)
    assert file.read(4) == b"GGUF"
    assert file.integer(4) in (2, 3)
    n_tensors, n_keys = file.integer(8), file.integer(8)
    keys = {}
    for _ in range(n_keys):
        key = file.read(file.integer(8)).decode()
        assert key
        assert key not in keys
        kind = file.integer(4)
        keys[key] = file.read(file.integer(8) if kind == _STRING else _SIZES[kind])
    alignment = struct.unpack("<I", keys.get("general.alignment", struct.pack("<I", 32)))[0]
    assert alignment > 0
    assert not alignment & (alignment - 1)
    infos = []
    for _ in range(n_tensors):
        name = file.read(file.integer(8)).decode()
        assert len(name) < 64  # GGML_MAX_NAME
        assert name not in [info[0] for info in infos]
        n_dimensions = file.integer(4)
        assert n_dimensions <= 4
        shape = [file.integer(8) for _ in range(n_dimensions)]
        infos.append((name, shape, file.integer(4), file.integer(8)))
    file.read(-file.at % alignment)
    expected = 0
    for _, shape, _, offset in infos:
        assert offset == expected, "tensors must lie one after the other"
        expected += (4 * int(np.prod(shape)) + alignment - 1) // alignment * alignment
    body = file.read(expected)  # with the padding of the last one

    rows, width = {}, None
    for name, shape, kind, offset in infos:
        head, _, number = name.partition(".")
        assert head == "direction"
        assert int(number) > 0, "there is no direction of layer 0"
        assert kind == 0, "F32"
        assert len(shape) == 1
        width = width or shape[0]
        assert shape[0] == width
        assert offset % alignment == 0
        rows[int(number)] = np.frombuffer(body, "<f4", width, offset)
    assert rows
    return rows
