"""What ranks tell each other: beyond the trainer's own, nothing per step and one reduction per log, counted.

Torch's profiler sees every collective, also those that DDP's reducer and DeepSpeed make.
"""

from collections import Counter

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from emoreg import Anchor, Hinge, Regularizer, RegularizerCallback
from tests.distributed import engines
from tests.distributed.processes import run
from tests.support import EMOTIONS, random_vectors, sft_trainer, uneven_rows
from tests.tiny import llama, tokenizer

STEPS, LOGS = 8, 3  # at steps 4 and 8, and once more at the end
HINGE = [Hinge("desperate", weight=0.5)]
ANCHORED = [*HINGE, Anchor("desperate", weight=0.3, every=2)]


class Watch(TrainerCallback):
    """Profiles a run from the second step on: in the first, ranks make sure that they can train at all."""

    def __init__(self):
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.profile.start()


def collectives(rank, folder, engine, penalties, rows=2, emotions=EMOTIONS):
    """(name, size of its first tensor) of every collective, and how many there were."""
    options = engines.options(engine) | {"max_steps": STEPS, "logging_steps": 4, "per_device_train_batch_size": rows}
    model = llama()
    vectors = random_vectors(model, emotions)
    trainer = sft_trainer(model, tokenizer(), folder, uneven_rows(8 * rows * 4), gradient_accumulation_steps=1, **options)
    if penalties is not None:
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, penalties), gradient_every=2))
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    watch.profile.stop()
    events = [event for event in watch.profile.events() if event.name.startswith("c10d::")]
    assert events or engine == "none"
    found = Counter((event.name, size(event.input_shapes)) for event in events)
    return [(name, numel, times) for (name, numel), times in found.items()]


def size(shapes) -> int:
    """Elements of the first argument that has any: a tensor, or a list of them."""
    for shape in shapes:
        flat = shape if shape and not isinstance(shape[0], list) else (shape[0] if shape else [])
        if flat:
            return int(torch.Size(flat).numel())
    return 0


def added(tmp_path, engine, penalties, **options):
    """Collectives of a run with the callback beyond those of the same run without it."""
    counts = []
    for what, those in (("without", None), ("with", penalties)):
        folder = tmp_path / what
        folder.mkdir()
        rank, _ = run(2, call, folder, engine, those, options)
        counts.append(Counter({(name, numel): times for name, numel, times in rank}))
    for one in tmp_path.iterdir():
        one.rename(tmp_path.with_name(f"{tmp_path.name}-{len(list(tmp_path.parent.iterdir()))}"))
    plain, regularised = counts
    assert not plain - regularised
    return regularised - plain


def call(rank, folder, engine, penalties, options):
    return collectives(rank, folder, engine, penalties, **options)
