"""Vectors of persona-vectors: a ``.pt`` with one tensor (blocks + 1, D), whose row r is a mean of ``hidden_states[r]``.

Row 0 is the embeddings, so row r is emoreg's layer r - 1. transformers gives the last of them *after* the final norm,
which is no block's output: neither has a place here.
"""

import io
import logging
import pickletools
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from emoreg.vectors import Directions
from emoreg.vectors.formats.foreign import contents, directions_of

logger = logging.getLogger(__name__)

_RULES = {
    "_response_avg_diff": "mean of the response",
    "_prompt_avg_diff": "mean of the prompt",
    "_prompt_last_diff": "last token of the prompt",
}
# All that a plain tensor's pickle names. torch's own list has more, such as bytearray, which allocates what it is told.
_KINDS = ("BFloat16", "Double", "Float", "Half")
_NAMED = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict", *(f"torch {kind}Storage" for kind in _KINDS)}


def read_persona(path: str | Path, emotion: str | None = None, *, offset: int = 0) -> Directions:
    """Directions of a persona vector. Arguments are as in `emoreg.vectors.formats.read_directions`.

    Raises:
        ValueError: for every file that is no whole zip of one finite two-dimensional float tensor. Nothing in it is
            ever executed.
    """
    data, name, rule = contents(path), Path(path).stem, "unknown"
    for suffix, meaning in _RULES.items():
        if name.endswith(suffix):
            name, rule = name.removesuffix(suffix), meaning
    try:
        table_RD = _tensor(data)
        if table_RD.ndim != 2 or len(table_RD) < 3:
            raise ValueError(f"its tensor has shape {tuple(table_RD.shape)}, expected (blocks + 1, width)")
        logger.warning(
            "%s: the last of %d rows is left out: it is of the state after the final norm", path, len(table_RD)
        )
        pushes, method = dict(enumerate(table_RD[1:-1])), "persona vector, difference of means"
        return directions_of(pushes, data=data, emotion=emotion or name, method=method, token_rule=rule, offset=offset)
    except ValueError as error:
        raise ValueError(f"{path} is no persona vector that can be read: {error}; save or copy it again") from None


def _tensor(data: bytes) -> Tensor:
    """The one tensor that `torch.save` has written."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed, which torch.save does not do")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("it announces more than it holds")
            if broken := archive.testzip():
                raise ValueError(f"the checksum of {broken!r} is wrong")
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ValueError(f"it has {len(pickles)} pickles, expected one")
            _check_names(archive.read(pickles[0]))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, OverflowError) as error:
        raise ValueError(f"it is no whole zip as torch.save writes it ({error})") from None
    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle makes torch raise
        raise ValueError(f"torch cannot load it without unpickling ({str(error).splitlines()[0][:200]})") from None
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ValueError(f"it holds a {getattr(tensor, 'dtype', type(tensor).__name__)}, expected one float tensor")
    # A stride of 0 makes a few bytes into as many rows as a file likes to claim.
    if not tensor.is_contiguous() or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"its tensor claims the shape {tuple(tensor.shape)}, which is not what the file holds")
    return tensor


def _check_names(pickled: bytes) -> None:
    """Refuse a pickle that names anything but what makes a tensor. It is looked through, not run."""
    try:
        operations = list(pickletools.genops(pickled))
    except Exception as error:  # pickletools raises as many kinds as there are ways to be broken
        raise ValueError(f"its pickle is damaged ({error})") from None
    for operation, argument, _ in operations:
        named = argument if operation.name == "GLOBAL" else operation.name
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4") or (
            operation.name == "GLOBAL" and named not in _NAMED
        ):
            raise ValueError(f"its pickle asks for {named!r}, which is no part of a tensor, and is not run")
