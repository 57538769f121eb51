"""Control vectors of llama.cpp and repeng, in GGUF: tensor ``direction.N`` is added to the output of block N.

So N is emoreg's layer l. llama.cpp has no ``direction.0`` and refuses a file with one: block 0 cannot be steered there.
Its own cvector-generator estimates ``direction.N`` at the output of block N - 1, one block before the one it steers.
"""

import logging
from pathlib import Path

import torch

from emoreg import checks, files
from emoreg.vectors import Directions, EmotionVectors
from emoreg.vectors.formats.foreign import contents, directions_of
from emoreg.vectors.formats.gguf_bytes import INT32, parse, to_bytes

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"

SCALES = ("separation", "residual_norm", "unit")
"""How long the vectors of a written file can be."""


def read_gguf(path: str | Path, emotion: str | None = None, *, offset: int = 0) -> Directions:
    """Directions of a control vector. Arguments are as in `emoreg.vectors.formats.read_directions`.

    Raises:
        ValueError: for every file that is not whole, and not all fp32 vectors of one width called direction.N.
    """
    data = contents(path)
    try:
        metadata, pushes = parse(data)
        kind, _ = metadata.get("controlvector.layer_count", (None, None))
        if kind == INT32 and offset == 0:  # repeng and emoreg write uint32
            logger.warning(
                "%s looks like a file of llama.cpp's cvector-generator, which estimates direction.N at the output of "
                "block N - 1; offset=-1 reads them there",
                path,
            )
        named = metadata.get("emoreg.emotion", (None, None))[1]
        named = named if isinstance(named, str) and named else Path(path).stem
        return directions_of(
            pushes,
            data=data,
            emotion=emotion or named,
            method="control vector of a GGUF file",
            offset=offset,
        )
    except ValueError as error:
        raise ValueError(f"{path} is no control vector that can be read: {error}; export or copy it again") from None


def write_gguf(vectors: EmotionVectors, emotion: str, path: str | Path, *, scale: str = "separation") -> Path:
    """A control vector that llama.cpp loads (``--control-vector``), whole or not at all; returns its path.

    Block 0, if the vectors have it, is left out with a warning: llama.cpp cannot steer it.

    Args:
        vectors: where to take it from.
        emotion: which emotion; adding the vector raises it.
        path: where to; the suffix is added if it is missing.
        scale: how long each vector is: ``separation``, so that llama.cpp's scale 1 moves text by as much as separates
            the emotion's texts from the others'; ``residual_norm``, so that its scale is a fraction of the residual
            stream's norm; or ``unit``.

    Raises:
        ValueError: for an unknown emotion or scale, block 0 alone, or a path that cannot be written to.
    """
    checks.option("scale", scale, SCALES)
    k = vectors.index(emotion)
    length_L = {
        "separation": vectors.separation[:, k],
        "residual_norm": vectors.residual_norm,
        "unit": torch.ones(len(vectors.layers)),
    }[scale]
    push_LD = vectors.directions[:, k] * length_L[:, None]
    pushes = {layer: push_D for layer, push_D in zip(vectors.layers, push_LD, strict=True) if layer > 0}
    if not pushes:
        raise ValueError(
            "these vectors are of block 0 alone, which no control vector can hold: llama.cpp steers from block 1 on"
        )
    if vectors.layers[0] == 0:
        logger.warning("block 0 is left out: llama.cpp steers from block 1 on")
    path = path if Path(path).suffix == SUFFIX else Path(f"{path}{SUFFIX}")
    strings = {
        "general.architecture": "controlvector",
        "controlvector.model_hint": vectors.provenance.model,
        "emoreg.emotion": emotion,
        "emoreg.scale": scale,
    }
    with files.atomic(Path(path)) as temporary:
        temporary.write_bytes(to_bytes(strings, pushes))
    return Path(path)
