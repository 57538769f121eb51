"""A record as the flat numbers that trainers log."""

from collections.abc import Iterable

from emoreg.tracking.record import Record


def flat(record: Record) -> dict[str, float]:
    """Every figure of a record under its name; names of an evaluation begin with ``eval_``.

    ``emotion/<name>/layer_<l>/<figure>``, its mean over layers ``emotion/<name>/<figure>``, and ``emoreg/<number>``.
    """
    prefix = "eval_" if record.of == "eval" else ""
    named = {}
    for k, emotion in enumerate(record.emotions):
        for figure, table in record.tables.items():
            named[f"{prefix}emotion/{emotion}/{figure}"] = table[:, k].mean().item()
            for at, layer in enumerate(record.layers):
                named[f"{prefix}emotion/{emotion}/layer_{layer}/{figure}"] = table[at, k].item()
    return named | {f"emoreg/{name}": value for name, value in record.numbers.items()}


def is_ours(name: str) -> bool:
    """Whether a logged name is one of `flat`'s."""
    return name.removeprefix("eval_").startswith(("emotion/", "emoreg/"))


def shown_on_console(emotions: Iterable[str]) -> set[str]:
    """The few names that a console line has room for: contrast and gap of penalised emotions, and the term's share."""
    return {f"emotion/{emotion}/{figure}" for emotion in emotions for figure in ("contrast", "gap")} | {"emoreg/share"}
