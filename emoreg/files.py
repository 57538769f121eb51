"""Files written whole or not at all, and read so that every fault in them is a `ValueError`."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emoreg import checks

DIGEST = "sha256"
"""The key of a safetensors file's metadata under which the hash of all the rest is kept."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to. It takes ``path``'s place if the block ends well; else it is gone.

    Raises:
        ValueError: if the folder does not exist or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot write {path} ({error}); choose a folder that exists and is writable") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file. Nothing is unpickled, and nothing is allocated that the file does not hold.

    Raises:
        ValueError: if it is no whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    # The header is the file's own word: what it names may be no dtype, shape or size that torch can make.
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); extract or copy it again") from None


def digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all metadata but the digest itself, and of every tensor's name, dtype, shape and values."""
    found = hashlib.sha256()
    for key in sorted(metadata.keys() - {DIGEST}):
        found.update(f"{key}\0{metadata[key]}\0".encode(errors="surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode(errors="surrogatepass"))
        # A single value keeps the stride of where it came from, and is called contiguous all the same.
        flat = tensor.flatten().clone(memory_format=torch.contiguous_format)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def from_json(name: str, text: str, wanted: type | None) -> Any:
    """What a JSON text says, if it is of the type wanted; None for any.

    Raises:
        ValueError: for another type, what is no JSON, or nests too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} nests too deep") from None
    except ValueError as error:
        raise ValueError(f"{name} is no JSON ({error})") from None
    if wanted is not None:
        checks.kind(name, value, wanted, f"a JSON {wanted.__name__}")
    return value
