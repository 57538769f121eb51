"""A term's statistics as the flat numbers that a trainer logs."""

import torch
from torch import Tensor

from emoreg.reading import Statistics
from emoreg.regularizer import Term


def term_metrics(term: Term, training: bool) -> dict[str, float]:
    """Everything since the last call, under ``emotion/<name>/...`` and ``emoreg/...``; then starts anew.

    For each emotion, ``mean``, ``sd``, ``p95``, ``max`` of z over the scope and the share ``above`` the threshold, at
    ``emotion/<name>/layer_<l>/<figure>`` and, averaged over layers, at ``emotion/<name>/<figure>``. While training also
    ``neutral``, the mean z of the reference texts under the model as it is, and ``contrast``, mean less neutral: the
    figure that may be compared between models.

    Under ``emoreg/``: ``<penalty>/penalty`` (before its weight), ``<penalty>/weight``, ``term`` and ``task`` (what
    they add to an optimizer step's loss), ``share`` (the term's part of the whole loss),
    ``gradient/term/layer_<l>`` and ``gradient/task/layer_<l>`` (norms over the batch of an optimizer step, the root of
    the mean square over the steps at which they were measured), ``skipped`` (parts of the term that were not finite),
    and of a `Target` ``target/limit``, ``off``, ``factor`` and ``over_budget``.

    Raises:
        ValueError: if a reading is not finite, or a penalty's scope was empty for a whole step.
    """
    statistics = term.statistics if training else term.eval_statistics
    tables, numbers = statistics.read(term.across_ranks)
    statistics.reset()
    n_ranks = torch.distributed.get_world_size() if term.across_ranks else 1
    # Before anything else: a window with no position at all has no tables, and is the one to refuse.
    _refuse_empty(numbers, n_ranks)
    _gradient_norms(numbers, n_ranks)
    if term.non_finite == "stop":
        _refuse_non_finite(statistics, tables, numbers)
    if training and tables:
        neutral = term.reference.drift().cpu()
        tables |= {"neutral": neutral, "contrast": tables["mean"] - neutral}
        numbers |= _seek_target(term, tables, numbers)
    prefix = "" if training else "eval_"
    metrics = {}
    for k, emotion in enumerate(statistics.emotions):
        for figure, table in tables.items():
            metrics[f"{prefix}emotion/{emotion}/{figure}"] = table[:, k].mean().item()
            for row, layer in enumerate(statistics.layers):
                metrics[f"{prefix}emotion/{emotion}/layer_{layer}/{figure}"] = table[row, k].item()
    metrics |= {f"emoreg/{name}": value for name, value in numbers.items() if not name.endswith("empty_steps")}
    if "term" in numbers:
        whole = abs(numbers["term"]) + abs(numbers["task"])
        metrics["emoreg/share"] = abs(numbers["term"]) / whole if whole else 0.0
    return metrics


def _seek_target(term: Term, tables: dict[str, Tensor], numbers: dict[str, float]) -> dict[str, float]:
    loop = term.loop
    if loop is None or loop.base is None:
        return {}
    k = term.vectors.index(loop.target.emotion)
    base_contrast = (loop.base.cpu() - term.reference.base)[:, k].mean()
    found = loop.update(tables["contrast"][:, k].mean().item(), base_contrast.item(), numbers["task"])
    return {f"target/{name}": value for name, value in found.items()}


def _refuse_non_finite(statistics: Statistics, tables: dict[str, Tensor], numbers: dict[str, float]) -> None:
    bad = [] if not tables else (~tables["mean"].isfinite()).nonzero().tolist()
    if bad:
        row, k = bad[0]
        raise ValueError(
            f"readings of {statistics.emotions[k]!r} at layer {statistics.layers[row]} are not finite: the model's "
            "hidden states hold NaN or inf; lower the learning rate or look at the task loss"
        )
    if numbers.get("skipped"):
        raise ValueError(
            f"{numbers['skipped']:.0f} parts of the term were not finite since the last log; they were left out of the "
            'gradient. Lower the penalty\'s weight, or go on without them by non_finite="skip"'
        )


def _gradient_norms(numbers: dict[str, float], n_ranks: int) -> None:
    # Every rank counts its steps, and trainers divide what ranks add up to by their number.
    steps = numbers.pop("gradient/steps", 0.0) / n_ranks
    for name in numbers:
        if name.startswith("gradient/"):
            numbers[name] = (numbers[name] / steps) ** 0.5 / n_ranks


def _refuse_empty(numbers: dict[str, float], n_ranks: int) -> None:
    for name, share in numbers.items():
        # A rank may have nothing in scope; where more are empty than all but one could be, a whole step was.
        if name.endswith("/empty_steps") and share * n_ranks > n_ranks - 1:
            raise ValueError(
                f"the scope of {name.removesuffix('/empty_steps')} selected no position for a whole step; the term was "
                "missing there: check the data set's labels, or choose another scope"
            )
