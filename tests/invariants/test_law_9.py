"""Law 9: no waiting. Between logs nothing of ours brings a tensor's value to the host, whatever the trainer."""

import traceback

import pytest
import torch

from emoreg import Band, Hinge, Regularizer, RegularizerCallback, Target, default_penalties
from tests.support import random_vectors
from tests.trainers.cases import CASES

READS = ("item", "cpu", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "nonzero", "is_nonzero")


@pytest.fixture
def reads(monkeypatch):
    """Where our own code reads a value, as (optimizer steps made, method, function)."""
    found, now = [], {"trainer": None}

    def counting(name):
        method = getattr(torch.Tensor, name)

        def counted(self, *args, **kwargs):
            callers = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.name != "counted"]
            if "/emoreg/" in callers[-1].filename:
                found.append((now["trainer"].state.global_step, name, callers[-1].name))
            return method(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    for name in READS:
        counting(name)
    return found, now


@pytest.mark.parametrize("name", ["SFT", "DPO", "KTO", "Reward", "GRPO", "RLOO", "Distillation"])
def test_no_value_is_read_on_the_host_between_logs(name, reads, tmp_path):
    found, now = reads
    case = CASES[name]
    model = case.model()
    trainer = now["trainer"] = case.trainer(model, tmp_path, max_steps=6, logging_steps=3, learning_rate=1e-3)
    penalties = [*default_penalties(), Band("calm"), Hinge("sad", scope="last:2")]
    regularizer = Regularizer(random_vectors(model), penalties, target=Target("desperate", above_base=0.1))
    trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=1))
    trainer.train()
    # Before the first optimizer step the term is proven, once; then come the logs, after steps 3 and 6.
    assert {step for step, _, _ in found} == {0, 3, 6}, found
