"""What ranks tell each other: beyond the trainer's own, nothing per step and one reduction per log, counted.

Torch's profiler sees every collective, also those that DDP's reducer and DeepSpeed make.
"""

import functools
from collections import Counter

import pytest
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from emoreg import Anchor, Hinge, Regularizer, RegularizerCallback
from emoreg.reading.statistics import BINS
from tests.distributed import engines
from tests.distributed.law_3 import train
from tests.distributed.processes import run
from tests.support import EMOTIONS, random_vectors, sft_trainer, uneven_rows
from tests.tiny import llama, tokenizer

STEPS, LOGS = 7, 2  # at steps 4 and 6: the log of a step comes after its end
HINGE = [Hinge("desperate", weight=0.5)]
ANCHOR = [Anchor("desperate", weight=0.3, every=2)]
GATHERS = {"c10d::allgather_", "c10d::_allgather_base_", "c10d::_reduce_scatter_base_", "c10d::broadcast_"}


class Watch(TrainerCallback):
    """Profiles from the fourth step on: in the first, ranks make sure that they can train at all, with a pass more, and
    ZeRO-3 takes two more to learn what a step is."""

    def __init__(self):
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.profile.start()
        elif state.global_step == STEPS:  # a log, if there is one, comes later
            self.profile.stop()

    def collectives(self) -> Counter[str]:
        events = self.profile.profiler.kineto_results.events()  # as they come: to nest them takes longer than the run
        return Counter(event.name() for event in events if event.name().startswith("c10d::"))


def steps(rank, folder, engine, penalties, logging_steps):
    model = llama()
    options = engines.options(engine) | {"max_steps": STEPS, "logging_steps": logging_steps}
    trainer = sft_trainer(model, tokenizer(), folder, uneven_rows(48), gradient_accumulation_steps=1, **options)
    if penalties is not None:
        regularizer = Regularizer(random_vectors(llama()), penalties)
        trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=2))
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    return dict(watch.collectives())


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """A function: collectives of the first rank beyond those of the same run without the callback."""

    @functools.cache
    def plain(engine, logging_steps):
        return Counter(run(2, steps, tmp_path_factory.mktemp("plain"), engine, None, logging_steps)[0])

    def beyond_plain(engine, penalties, logging_steps=100):
        before = plain(engine, logging_steps)
        with_it = Counter(run(2, steps, tmp_path_factory.mktemp("run"), engine, penalties, logging_steps)[0])
        assert before.total() > 0
        assert not before - with_it
        return with_it - before

    return beyond_plain


@pytest.mark.parametrize("engine", ["DDP", "ZeRO-2", "FSDP2", "FSDP1", "ZeRO-3"])
def test_none_a_step(engine, added):
    assert added(engine, HINGE) == {}


def test_one_a_log(added):
    """Those of steps 4 and 6 come while the run is watched."""
    assert added("DDP", HINGE, logging_steps=2) == {"c10d::allreduce_": LOGS}


@pytest.mark.parametrize("engine", ["DDP", "FSDP2", "ZeRO-3"])
def test_an_anchor_has_the_engine_gather_the_weights_once_more(engine, added):
    """Where they are sharded. It is the engine's own doing, at every so many steps."""
    found = added(engine, ANCHOR)
    assert found.keys() <= GATHERS
    assert bool(found) == (engine != "DDP")


class TestTheReduction:
    def test_has_a_size_of_emotions_layers_and_ranks_alone(self, tmp_path):
        per_batch = [run(2, small_and_large, tmp_path, cut)[0]["sums"] for cut in ((1, 2), (4, 2))]
        logged = [[numel for step, numel in sums if step > 0] for sums in per_batch]
        assert logged[0] == logged[1]
        tables = 1 + (3 + BINS + 2) * 4 * len(EMOTIONS)  # sums, histogram, a place for each rank's maxima
        assert all(0 <= numel - tables < 100 for numel in logged[0]), "beside the tables only some named numbers"

    def test_comes_at_logs_alone(self, tmp_path):
        """After the first step, at which each scope's positions are added up. The trainer logs once more at its end."""
        sums = run(2, small_and_large, tmp_path, (2, 2))[0]["sums"]
        assert [step for step, _ in sums if step > 0] == [2, 4, 6, 6]
        assert all(numel == 1 for step, numel in sums if step == 0)


def small_and_large(rank, folder, cut):
    return train(rank, folder, "SFT", cut, penalties=HINGE, gradient_every=100)
