"""The file of a set of vectors: one safetensors file, whole or not at all, and anything else refused in one line."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file

from emoreg import checks, files
from emoreg.vectors.provenance import Provenance

FORMAT = "emoreg.vectors/2"
SUFFIX = ".safetensors"
FLOATS = ("directions", "separation", "mean", "std", "residual_norm", "reference_z")
TENSORS = (*FLOATS, "reference_ids", "reference_mask")
"""The tensors that a file holds, besides sampled weights."""

_SAMPLE = "weights/"

Vectors = TypeVar("Vectors")


def save(fields: Mapping[str, Any], path: str | Path) -> Path:
    """Write the fields of `emoreg.EmotionVectors`; returns the path, with its suffix.

    Raises:
        ValueError: if the folder does not exist or cannot be written to.
    """
    path = with_suffix(path)
    tensors = {name: fields[name].contiguous() for name in TENSORS}
    tensors |= {_SAMPLE + name: value for name, value in fields["weights"].items()}
    metadata = {
        "format": FORMAT,
        "emotions": json.dumps(fields["emotions"]),
        "layers": json.dumps(fields["layers"]),
        "provenance": json.dumps(asdict(fields["provenance"])),
        "validation": json.dumps(fields["validation"]),
    }
    metadata[files.DIGEST] = files.digest(metadata, tensors)
    with files.atomic(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return path


def load(path: str | Path, make: Callable[..., Vectors]) -> Vectors:
    """Read a file that `save` wrote; ``make`` is called with its fields.

    Raises:
        ValueError: if the file is missing, truncated, no safetensors, not of this format, or not as it was written.
    """
    checks.kind("path", path, str | Path, "the path of a file of vectors")
    found = existing(path)
    if found is None:
        raise ValueError(f"no vectors at {with_suffix(path)}; make them with `emoreg extract`")
    metadata, tensors = files.read_safetensors(found)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{found} is no emoreg vector file of this version: format {metadata.get('format')!r}, expected "
            f"{FORMAT!r}; extract the vectors again"
        )
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith(_SAMPLE)}
    try:
        if strange := sorted(tensors.keys() - weights.keys() - set(TENSORS)):
            raise ValueError(f"it holds tensors of other names: {strange}")
        vectors = make(
            emotions=tuple(files.from_json("emotions", metadata["emotions"], list)),
            layers=tuple(files.from_json("layers", metadata["layers"], list)),
            provenance=Provenance(**files.from_json("provenance", metadata["provenance"], dict)),
            validation=files.from_json("validation", metadata["validation"], None),
            weights={name.removeprefix(_SAMPLE): tensor for name, tensor in weights.items()},
            **{name: tensors[name] for name in TENSORS},
        )
    except KeyError as error:
        raise ValueError(f"{found} is a damaged emoreg vector file: it has no {error}; copy it again") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{found} is a damaged emoreg vector file: {error}; copy it again") from None
    if metadata.get(files.DIGEST) != files.digest(metadata, tensors):
        raise ValueError(
            f"{found} is a damaged emoreg vector file: its {files.DIGEST} is not that of what it holds; copy or "
            "extract it again"
        )
    return vectors


def existing(path: str | Path) -> Path | None:
    """A file at the path, or at the path with the suffix; None if there is neither."""
    # Unlike Path.is_file, isfile is also False for what can be no path at all.
    return next((Path(one) for one in (path, with_suffix(path)) if os.path.isfile(one)), None)


def with_suffix(path: str | Path) -> Path:
    """The path, with the suffix of a file of vectors."""
    path = Path(path)
    return path if path.suffix == SUFFIX else Path(f"{path}{SUFFIX}")
