"""Which rows of a trainer's batch each forward pass took.

The model's own arguments say what a pass read; they are right whatever a trainer does to its batch on the way. What
they leave out (which tokens are a completion's, which rows are chosen) comes from the batch as `compute_loss` gets it.

Shapes: B rows of a batch, T positions.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from emoreg.reading.scope import IGNORE, like


def per_pass(passes: Sequence[Mapping[str, Tensor]], batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each pass's inputs with its rows of a batch.

    A batch may go through the model whole, in chunks of rows that follow each other, or several times over. A label
    counts if the pass and the batch both have it.

    Args:
        passes: the model's arguments in each pass.
        batch: as `standard` gives it.

    Raises:
        ValueError: if the batch's labels cannot be laid onto the passes and a pass brought none of its own.
    """
    n_rows = [len(like(one)) for one in passes]
    found, start = [], 0
    for given, n in zip(passes, n_rows, strict=True):
        own: dict[str, Tensor] = {}
        for name, value in batch.items():
            if name not in given or name == "labels":
                if value.ndim and len(value) == sum(n_rows):
                    own[name] = value[start : start + n]
                elif value.ndim and len(value) == n:
                    own[name] = value
        start += n
        found.append({**own, **given, **_labels(given, own, batch)})
    return found


def _labels(given: Mapping[str, Tensor], own: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs, ours = given.get("labels"), own.get("labels")
    shape = like(given).shape
    if ours is not None and ours.shape == shape:
        return {"labels": ours if theirs is None else theirs.masked_fill(ours == IGNORE, IGNORE)}
    if theirs is None and "labels" in batch and batch["labels"].ndim == 2:
        raise ValueError(
            f"the batch has labels of shape {tuple(batch['labels'].shape)} and a forward pass read {tuple(shape)} "
            "positions, so scopes cannot be matched; give the model its labels too, or one pass for each batch"
        )
    return {} if theirs is None else {"labels": theirs}
