"""Directions in other libraries' files, and llama.cpp's control vectors. ``docs/formats.md`` has the conventions."""

from collections.abc import Callable
from pathlib import Path

from emoreg import checks
from emoreg.vectors import Directions
from emoreg.vectors.formats.gguf import read_gguf, write_gguf
from emoreg.vectors.formats.persona import read_persona
from emoreg.vectors.formats.svec import read_svec

READERS: dict[str, Callable[..., Directions]] = {".gguf": read_gguf, ".pt": read_persona, ".svec": read_svec}
"""Which function reads files of which suffix."""

__all__ = ["READERS", "read_directions", "read_gguf", "read_persona", "read_svec", "write_gguf"]


def read_directions(path: str | Path, emotion: str | None = None, *, offset: int = 0) -> Directions:
    """One emotion's directions from another library's file. `emoreg.extraction.calibrate` makes vectors of them.

    Args:
        path: a ``.gguf`` of repeng or llama.cpp, a ``.pt`` of persona-vectors, or a ``.svec`` of activation-steering.
        emotion: its name; by default what the file, or the file's name, says.
        offset: added to every block number, for a file that counts otherwise than its library does.

    Raises:
        ValueError: for another suffix, and for every file that is not whole and sound.
    """
    checks.kind("path", path, str | Path, "the path of a file of directions")
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        raise ValueError(f"{path} ends in .safetensors, as emoreg's own files do; read those with EmotionVectors.load")
    if suffix not in READERS:
        raise ValueError(f"{path} is of no known kind: expected a name that ends in {', '.join(READERS)}")
    return READERS[suffix](path, emotion, offset=offset)
