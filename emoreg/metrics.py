"""A term's statistics as the flat numbers that a trainer logs."""

from emoreg.regularizer import Term
from emoreg.statistics import Statistics


def term_metrics(term: Term, training: bool) -> dict[str, float]:
    """Everything since the last call, under ``emotion/<name>/...`` and ``emoreg/...``; then starts anew.

    For each emotion, ``mean``, ``sd``, ``p95``, ``max`` of z over the scope and the share ``above`` the threshold, at
    ``emotion/<name>/layer_<l>/<figure>`` and, averaged over layers, at ``emotion/<name>/<figure>``. While training also
    ``neutral``, the mean z of the reference texts under the model as it is, and ``contrast``, mean less neutral: the
    figure that may be compared between models.

    Under ``emoreg/``: ``<penalty>/penalty`` (before its weight), ``<penalty>/weight``, ``term`` and ``task`` (what
    they add to an optimizer step's loss, per micro-batch), ``share`` (the term's part of the whole loss), and
    ``gradient/term/layer_<l>`` and ``gradient/task/layer_<l>``.

    Raises:
        ValueError: if a reading is not finite, or a penalty's scope was empty for a whole step.
    """
    statistics = term.statistics if training else term.eval_statistics
    tables, numbers = statistics.read()
    statistics.reset()
    if not tables:
        return {}
    _refuse(statistics, tables, numbers)
    if training:
        neutral = term.reference.drift().cpu()
        tables |= {"neutral": neutral, "contrast": tables["mean"] - neutral}
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


def _refuse(statistics: Statistics, tables: dict, numbers: dict[str, float]) -> None:
    bad = ~tables["mean"].isfinite()
    if bad.any():
        row, k = bad.nonzero()[0].tolist()
        raise ValueError(
            f"readings of {statistics.emotions[k]!r} at layer {statistics.layers[row]} are not finite: the model's "
            "hidden states hold NaN or inf; lower the learning rate or look at the task loss"
        )
    for name, share in numbers.items():
        if name.endswith("/empty_steps") and share > 0:
            raise ValueError(
                f"the scope of {name.removesuffix('/empty_steps')} selected no position for a whole step; the term was "
                "missing there: check the data set's labels, or choose another scope"
            )
