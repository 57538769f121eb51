"""Checks of what a user hands over. Each raises a ValueError: the field's name, what it must be, what it is."""

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from types import UnionType
from typing import Any


def refuse_unless(good: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError unless ``good``."""
    if not good:
        raise ValueError(f"{name} must be {expected}, got {_brief(got)}")


def number(name: str, value: Any, low: float | None = None) -> None:
    """A finite number, of at least ``low`` if that is given."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    at_least = "" if low is None else f" of at least {low:g}"
    refuse_unless(good and (low is None or value >= low), name, f"a finite number{at_least}", value)


def integer(name: str, value: Any, low: int) -> None:
    """A whole number of at least ``low``."""
    refuse_unless(_is_integer(value) and value >= low, name, f"a whole number of at least {low}", value)


def text(name: str, value: Any, expected: str = "a name") -> None:
    """A string that is not empty."""
    refuse_unless(isinstance(value, str) and value != "", name, expected, value)


def names(name: str, value: Any) -> None:
    """Distinct strings, in a list or tuple; perhaps none."""
    good = _is_sequence(value) and all(isinstance(one, str) and one for one in value) and _distinct(value)
    refuse_unless(good, name, "a list of distinct names", value)


def layers(name: str, value: Any) -> None:
    """One or more distinct block numbers, in a list, tuple or range."""
    good = _is_sequence(value) and all(_is_integer(one) and one >= 0 for one in value) and _distinct(value)
    refuse_unless(good and len(value) > 0, name, "a list of one or more distinct block numbers", value)


def layers_in(name: str, text: str) -> list[int]:
    """What ``text`` says in block numbers and ranges, as 4,5,8-12."""
    try:
        ranges = [part.split("-") for part in text.split(",")]
        return [layer for first, *last in ranges for layer in range(int(first), int(last[0] if last else first) + 1)]
    except ValueError:
        raise ValueError(f"{name} takes block numbers and ranges, as 4,5,8-12; got {text!r}") from None


def tokens(name: str, value: Any) -> None:
    """One or more token ids, in a list or tuple."""
    good = _is_sequence(value) and all(_is_integer(one) and one >= 0 for one in value)
    refuse_unless(good and len(value) > 0, name, "a tuple of one or more token ids", value)


def option(name: str, value: Any, options: Iterable[str]) -> None:
    """One of a few strings."""
    good = isinstance(value, str) and value in options
    refuse_unless(good, name, f"one of {', '.join(map(repr, options))}", value)


def kind(name: str, value: Any, wanted: type | UnionType, expected: str) -> None:
    """An instance of a class."""
    refuse_unless(isinstance(value, wanted), name, expected, value)


def function(name: str, value: Callable, of: str) -> None:
    """Something that can be called with one argument, and no class."""
    try:
        good = not isinstance(value, type) and bool(inspect.signature(value).bind(None))
    except TypeError:
        good = False
    except ValueError:  # a builtin that does not tell
        good = True
    refuse_unless(good, name, f"a function of {of} alone", value)


def first_line(error: BaseException) -> str:
    """What an error says, as far as it fits into another's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _distinct(value: Any) -> bool:
    return len(set(value)) == len(value)


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"a {type(value).__name__}"
