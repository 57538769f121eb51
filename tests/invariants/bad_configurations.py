"""What a user can get wrong: for each field of the public surface, values that will not do.

They are near misses, made by hand, and junk of any type, less what happens to be good. A function of the user's that
raises by itself is not among them: its own error says more.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from emoreg import EmotionVectors, Hinge, Reasoning, Target
from emoreg.regularizer.schedules import cosine, linear
from tests import tiny
from tests.support import EMOTIONS, random_vectors

Values = st.SearchStrategy[Any]

JUNK: Values = st.one_of(
    st.none(), st.booleans(), st.text(max_size=8), st.binary(max_size=4), st.integers(), st.floats(),
    st.complex_numbers(), st.decimals(), st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.sets(st.integers(), max_size=2),
    st.builds(object), st.lists(st.lists(st.integers(), max_size=2)).map(iter), st.just(...),
    st.sampled_from([Hinge, Path("x"), np.ones(2), np.array("x"), torch.ones(2), torch.tensor(1)]),
)  # fmt: skip


def bad(usual: Iterable[Any], good: Callable[[Any], bool], near: Iterable[Any] = ()) -> Values:
    """The usual mistakes and junk, less what is ``good``; and near misses, that are bad in this one place."""
    found = (st.sampled_from(list(usual)) | JUNK).filter(lambda value: not good(value))
    return st.sampled_from(list(near)) | found if near else found


def number(low: float = -math.inf, near: Iterable[Any] = (), optional: bool = False) -> Values:
    def good(value: Any) -> bool:
        return (optional and value is None) or (
            type(value) in (int, float) and low <= value and abs(value) <= sys.float_info.max
        )

    usual = [math.nan, math.inf, -math.inf, "0.1", "", True, None, 10**400, 1j, [0.1], (0.1,), b"1", Decimal("0.1")]
    arrays = [np.array([0.1, 0.2]), np.array([]), torch.tensor(0.1), {"weight": 1}]
    below = [] if low == -math.inf else [low - 1e-6, low - 1.0]
    return bad([*usual, *arrays, *below], good, near)


def whole(low: int, near: Iterable[Any] = (), optional: bool = False) -> Values:
    usual = [low - 1, -1, -(10**30), 1.0, 2.5, math.nan, math.inf, "4", True, False, None, [4], b"4", np.array([1, 2])]
    return bad(usual, lambda value: (optional and value is None) or (type(value) is int and value >= low), near)


def words(*good: str, near: Iterable[Any] = ()) -> Values:
    usual = ["", *(word.upper() for word in good), *(f" {word}" for word in good), list(good), good[0].encode()]
    return bad([*usual, np.array(good)], lambda value: isinstance(value, str) and value in good, near)


NAME = words(*EMOTIONS, near=["desparate", "desperat", "desperate\n", ("calm",), 0])
NAMES = bad(
    [["clam"], "calm", ["calm", "calm"], [None], [1], [["calm"]], [b"calm"], {"calm"}, {"calm": 1}, ("calm", ""), 3,
     iter(["calm"]), np.array(["calm"])],
    lambda value: value is None or (isinstance(value, list) and not value),
)  # fmt: skip
LAYERS = bad(
    [[], (), [4], [-1], [0, 0], (3, 2, 3), [1.0], ["1"], [True], "01", "trust", 2, {0: 1}, {0, 1}, range(5), range(0),
     [[0]], [None], [0, 10**30], np.array([0.5, 1.0]), np.array([0, 9]), b"\0", torch.tensor([1.5])],
    lambda value: value is None or (isinstance(value, list) and all(type(v) is int and 0 <= v < 4 for v in value)
                                    and 0 < len(value) == len(set(value))),
)  # fmt: skip


def nothing(inputs: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros_like(inputs["input_ids"]).bool()


SCOPE = bad(
    [nothing, lambda inputs: None, lambda inputs: inputs["input_ids"], lambda inputs: nothing(inputs).float(),
     lambda inputs: ~nothing(inputs)[:, :1], lambda inputs: [[True]], lambda inputs: "all", lambda: None,
     lambda a, b: nothing(a), len, Reasoning, Reasoning((999,), (998,)),
     "completions", "last", "last:0", "last:-1", "last:1.5", "last:", "last:k", "last: 2", "Completion", "reply",
     "chosen:", "all:all", "chosen:chosen:all", "chosen:all", "rejected:completion", "desirable:last:2", "both:x",
     "last:" + "9" * 40, ["all"], b"all"],
    lambda value: False,
)  # fmt: skip
SCHEDULE = bad(
    [linear, cosine, lambda: 1.0, lambda a, b: 1.0, lambda step: math.nan, lambda step: -0.5, lambda step: None,
     lambda step: "1", lambda step: math.inf, lambda step: torch.tensor(1.0), lambda step: True, "cosine", 0.5, [1.0],
     Target("sad", at_most=0.1), Target("desparate", at_most=0.1), Target, {"linear": 10}],
    lambda value: value is None,
)  # fmt: skip
TARGET = bad(
    [
        Target("sad", at_most=0.1),
        Target("desparate", at_most=0.1),
        Target,
        "desperate",
        0.5,
        linear(2),
        {"at_most": 0.1},
    ],
    lambda value: value is None,
)
TOKENS = bad(
    [(), [], (1.5,), ("<think>",), "<think>", (None,), (-1,), 7, ((1,),), (True,), {1: 2}, np.array([])],
    lambda value: isinstance(value, list | tuple) and bool(value) and all(type(v) is int and v >= 0 for v in value),
)
MARKER = bad(["", None, b"x", 3, ["<think>"], ("a", "b")], lambda value: isinstance(value, str) and bool(value))
PATH = bad(["", "nowhere", "x" * 300, "\0", "/", ".", "\udcff", 7, Path("nowhere")], lambda value: False)


def tensor(good: Tensor, near: Iterable[Any] = ()) -> Values:
    usual = [good[:1], good[None], good[..., :1], good.tolist(), good.numpy(), good.to(torch.complex64)]
    return bad([*usual, good.flatten()[:0]], lambda value: False, near)


def vectors() -> Values:
    """No vectors at all; and vectors of a model that is narrower, deeper, of other weights."""
    others = ({"hidden_size": 16}, {"num_hidden_layers": 5}, {"seed": 1})
    usual = [None, "vectors/qwen3-0.6b", EmotionVectors, {"directions": torch.ones(1, 1, 32)}]
    return bad([*usual, *(random_vectors(tiny.llama(**config)) for config in others)], lambda value: False)


def things(good: Any, near: Iterable[Any] = ()) -> Values:
    """What is no such thing at all, its class among it."""
    return bad([type(good), [good], str(good), None], lambda value: isinstance(value, list) and not value, near)


def in_yaml(values: Values) -> Values:
    """Those that a YAML file can hold. Its strings are argparse's to read, as on the command line."""

    def plain(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (bool, int, float)

    return values.filter(plain)
