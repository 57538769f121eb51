"""Law 5, at large: 200 configurations with one bad field each end in a ValueError that names it; none trains.

The property runs in an interpreter of its own: the import hook of `tests/conftest.py` would meet wrong types before
emoreg does, and users have no such hook.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import TrlParser

from emoreg import Anchor, Band, EmotionVectors, Hinge, Reasoning, Regularizer, RegularizerCallback, Target
from emoreg import default_penalties as defaults
from emoreg.regularizer.schedules import cosine, linear
from emoreg.training.config import RegularizerConfig
from tests import tiny
from tests.invariants import bad_configurations as bad
from tests.support import random_vectors, sft_trainer

ROOT = Path(__file__).parents[2]
MODEL = tiny.llama()
VECTORS = random_vectors(MODEL)
FOLDER = tempfile.TemporaryDirectory()
FILE = str(VECTORS.save(Path(FOLDER.name) / "vectors"))
TOKENIZER = tiny.tokenizer()
TRAINER = sft_trainer(MODEL, TOKENIZER, FOLDER.name, max_steps=1)
CALLBACKS = TRAINER.callback_handler.callbacks
N_CALLBACKS = len(CALLBACKS)


class Thing(NamedTuple):
    """Something that a user makes, the good arguments of it, and how it gets into a regularizer."""

    make: Callable[..., Any]
    good: dict[str, Any]
    use: Callable[[Any], Regularizer]
    bad: dict[str, bad.Values]


def penalised(penalty: Any) -> Regularizer:
    return Regularizer(VECTORS, [penalty])


def scheduled(schedule: Any) -> Regularizer:
    return Regularizer(VECTORS, defaults(), schedule=schedule)


def sought(target: Any) -> Regularizer:
    return Regularizer(VECTORS, defaults(), target=target)


def from_yaml(**options: Any) -> RegularizerConfig:
    """As `emoreg train --config` reads it."""
    file = Path(FOLDER.name) / "config.yaml"
    file.write_text(yaml.safe_dump(options))
    (config,) = TrlParser([RegularizerConfig]).parse_args_and_config(["--config", str(file)])
    return config


PENALTY = {"emotion": bad.NAME, "weight": bad.number(0), "layers": bad.LAYERS}
TARGET = {
    "emotion": bad.NAME, "gain": bad.number(0), "damping": bad.number(0), "high": bad.number(0, near=[0.5, 0]),
    "low": bad.number(0, near=[0.0, 2.0, 2000]),
}  # fmt: skip
CONFIG = {
    "emotion": bad.NAME, "hinge_weight": bad.number(0), "hinge_threshold": bad.number(), "anchor_weight": bad.number(0),
    "anchor_every": bad.whole(1), "scope": bad.SCOPE, "monitor": bad.NAMES,
    "emotion_layers": bad.LAYERS.filter(lambda value: value != "01"),  # which says block 1 here
    "term_schedule": bad.words("constant", "linear", "cosine"), "term_warmup_steps": bad.whole(0, near=[9, 10]),
    "term_total_steps": bad.whole(3, near=[2, 1, 0], optional=True), "vectors": bad.PATH,
}  # fmt: skip
GOOD_CONFIG = {"vectors": FILE, "term_schedule": "linear", "term_warmup_steps": 2, "term_total_steps": 9}
STEPS = {"warmup_steps": bad.whole(0, near=[9, 10]), "total_steps": bad.whole(3, near=[2, 1, 0], optional=True)}
TENSORS = {
    "directions": [VECTORS.directions * 2, VECTORS.directions * torch.nan, VECTORS.directions.double()],
    "mean": [VECTORS.mean * torch.inf],
    "std": [VECTORS.std * 0, -VECTORS.std, VECTORS.std * torch.nan],
    "residual_norm": [VECTORS.residual_norm * torch.nan],
    "reference_ids": [VECTORS.reference_ids - 99, VECTORS.reference_ids + 999, VECTORS.reference_ids.float()],
    "reference_mask": [VECTORS.reference_mask.long(), torch.zeros_like(VECTORS.reference_mask)],
    "reference_z": [VECTORS.reference_z * torch.nan],
}
ALL = {name: getattr(VECTORS, name) for name in (f.name for f in dataclasses.fields(VECTORS))}
PENALTIES = [[Hinge("calm")] * 2, [[Hinge("calm")]], Hinge("calm"), {Hinge("calm"): 1}, iter(defaults()), ["calm"]]

THINGS = {
    "Hinge": Thing(Hinge, {"emotion": "desperate"}, penalised,
                   PENALTY | {"threshold": bad.number(), "scope": bad.SCOPE}),
    "Band": Thing(Band, {"emotion": "desperate"}, penalised, PENALTY | {
        "low": bad.number(near=[1.0, 2.0]), "high": bad.number(near=[-1, -2]), "scope": bad.SCOPE,
    }),
    "Anchor": Thing(Anchor, {"emotion": "desperate"}, penalised,
                    PENALTY | {"every": bad.whole(1), "texts": bad.whole(1)}),
    "default_penalties": Thing(defaults, {}, lambda penalties: Regularizer(VECTORS, penalties),
                               {"emotion": bad.NAME, "hinge": bad.number(0), "anchor": bad.number(0)}),
    "Reasoning": Thing(Reasoning, {"start": (5, 6), "end": (7,)}, lambda scope: penalised(Hinge("calm", scope=scope)),
                       {"start": bad.TOKENS, "end": bad.TOKENS}),
    "Reasoning.between": Thing(Reasoning.between, {"tokenizer": TOKENIZER, "start": "a", "end": "b"},
                               lambda scope: penalised(Hinge("calm", scope=scope)),
                               {"tokenizer": bad.things(TOKENIZER), "start": bad.MARKER, "end": bad.MARKER}),
    "Target": Thing(Target, {"emotion": "desperate", "at_most": 0.1}, sought,
                    TARGET | {"at_most": bad.number(), "task_budget": bad.number(0, optional=True)}),
    "Target above base": Thing(Target, {"emotion": "desperate", "above_base": 0.1}, sought,
                               {"above_base": bad.number(), "at_most": bad.number(near=[0.1], optional=True)}),
    "linear": Thing(linear, {"warmup_steps": 2, "total_steps": 9}, scheduled, STEPS),
    "cosine": Thing(cosine, {"warmup_steps": 2, "total_steps": 9}, scheduled, STEPS),
    "Regularizer": Thing(Regularizer, {"vectors": VECTORS, "penalties": defaults()}, lambda regularizer: regularizer, {
        "vectors": bad.vectors(), "penalties": bad.things(Hinge("calm"), PENALTIES),
        "scope": bad.SCOPE, "schedule": bad.SCHEDULE, "target": bad.TARGET, "monitor": bad.NAMES,
        "non_finite": bad.words("stop", "skip"),
    }),
    "RegularizerConfig": Thing(RegularizerConfig, GOOD_CONFIG, RegularizerConfig.build, CONFIG),
    "emoreg train --config": Thing(from_yaml, GOOD_CONFIG, RegularizerConfig.build,
                                    {name: bad.in_yaml(v) for name, v in CONFIG.items() if name != "vectors"}),
    "EmotionVectors": Thing(EmotionVectors, ALL, lambda vectors: Regularizer(vectors, defaults()), {
        "emotions": bad.NAMES, "layers": bad.LAYERS, "provenance": bad.things(VECTORS.provenance, [{"model": "x"}]),
        "weights": bad.things({}, [{}, {"x": 1}, {1: torch.ones(2)}]),
        **{name: bad.tensor(getattr(VECTORS, name), near) for name, near in TENSORS.items()},
    }),
    "EmotionVectors.select": Thing(VECTORS.select, {}, lambda vectors: Regularizer(vectors, defaults()),
                                   {"emotions": bad.NAMES, "layers": bad.LAYERS}),
    "EmotionVectors.load": Thing(EmotionVectors.load, {}, lambda vectors: Regularizer(vectors, defaults()),
                                 {"path": bad.PATH}),
    "RegularizerCallback": Thing(lambda **arguments: arguments, {}, lambda arguments: arguments, {
        "gradient_every": bad.whole(1), "regularizer": bad.things(None, [VECTORS, defaults()]),
        "trainer": bad.things(None, [MODEL])}),
}  # fmt: skip
FIELDS = [(name, field) for name, thing in THINGS.items() for field in thing.bad]


def train(thing: Thing, arguments: dict[str, Any]) -> None:
    """From a user's arguments to `Trainer.train`, which must not be reached unharmed."""
    used = thing.use(thing.make(**arguments))
    callback = {"trainer": TRAINER, "regularizer": Regularizer(VECTORS, defaults())}
    callback |= used if isinstance(used, dict) else {"regularizer": used}
    TRAINER.add_callback(RegularizerCallback(**callback))
    TRAINER.train()


def trace() -> list[Any]:
    """All that a run, or a part of one, would leave behind."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in MODEL.modules()]
    wrapped = {name for owner in (TRAINER, *CALLBACKS) for name, value in vars(owner).items() if callable(value)}
    return [hooks, wrapped, TRAINER.state.global_step, *(p.tolist() for p in MODEL.parameters())]


# The user knows these by another name as well.
ALSO = {"emotions": "emotion", "monitor": "emotion", "emotion_layers": "layer", "layers": "layer", "path": "vectors"}


def mistake(name: str, field: str, value: Any) -> str | None:
    """What is wrong with how emoreg takes one bad value; None if nothing is."""
    thing, before, problem = THINGS[name], trace(), "it trained"
    try:
        train(thing, thing.good | {field: value})
    except ValueError as error:
        named = field in str(error) or ALSO.get(field, field) in str(error)
        problem = None if named else f"a ValueError that does not name the field: {error}"
    except Exception as error:
        problem = "".join(traceback.format_exception(error, limit=-3))
    for callback in CALLBACKS[N_CALLBACKS:]:
        TRAINER.remove_callback(callback)
    if problem is None and before != trace():
        problem = "the model's weights have changed, or a hook or wrapper is left"
    return problem and f"{name}({field}={value!r}): {problem}"


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.data())
def every_mistake_is_refused(data: st.DataObject) -> None:
    name, field = data.draw(st.sampled_from(FIELDS))
    problem = mistake(name, field, data.draw(THINGS[name].bad[field]))
    assert problem is None, problem


def every_field_is_looked_at() -> None:
    """Chance leaves some fields out of the 200: four more values for each."""

    @settings(max_examples=4, derandomize=True, deadline=None)
    def refused(name: str, field: str, value: Any) -> None:
        problem = mistake(name, field, value)
        assert problem is None, problem

    for name, field in FIELDS:
        given(st.just(name), st.just(field), THINGS[name].bad[field])(refused)()


def the_check_can_fail() -> None:
    """A good value trains, and is found out."""
    assert mistake("Hinge", "weight", 0.1) == "Hinge(weight=0.1): it trained"


@pytest.mark.slow
def test_each_ends_in_an_error_that_names_the_field_and_none_trains():
    done = subprocess.run([sys.executable, __file__], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


if __name__ == "__main__":
    torch.set_num_threads(1)
    every_mistake_is_refused()
    every_field_is_looked_at()
    the_check_can_fail()
