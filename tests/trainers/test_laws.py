"""Laws 1, 7 and 8 in every trainer; 2 is `test_matrix.py`, 4 its texts without padding, the others in `invariants/`."""

import pytest
import torch

from emoreg import Regularizer, RegularizerCallback, Target, default_penalties
from tests.support import random_vectors
from tests.trainers.cases import CASES


def train(case, output_dir, penalties=None, resume=None, target=None, **options):
    """A run that moves weights, without the callback if ``penalties`` is None. Returns trainer and its trace before."""
    model = case.model()
    vectors = random_vectors(model)
    torch.manual_seed(0)
    trainer = case.trainer(model, output_dir, **({"learning_rate": 1e-3, "max_steps": 2} | options))
    before = trace(trainer)
    if penalties is not None:
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, penalties, target=target)))
    trainer.train(resume_from_checkpoint=resume)
    return trainer, before


def trace(trainer):
    """Hooks on the model, methods put on the trainer, and on its callbacks."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trainer.model.modules())
    wrapped = {name for name in ("train", "compute_loss", "log", "training_step") if name in vars(trainer)}
    return hooks, wrapped, [name for c in trainer.callback_handler.callbacks for name in vars(c) if name == "on_log"]


def same(a, b) -> bool:
    ours, theirs = (dict(trainer.model.named_parameters()) for trainer in (a, b))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_monitor_changes_nothing_and_leaves_nothing(case, tmp_path):
    """Laws 1 and 8."""
    plain, _ = train(case, tmp_path / "plain")
    watched, before = train(case, tmp_path / "watched", [])
    assert same(watched, plain)
    assert trace(watched) == before
    untrained = case.model().state_dict()
    assert any(not torch.equal(p, untrained[name]) for name, p in watched.model.named_parameters())


# Distillation does not go on bitwise without emoreg either.
@pytest.mark.parametrize("name", ["DPO", "KTO", "Reward", "GRPO", "RLOO"])
def test_a_run_goes_on_bitwise_from_its_checkpoint(name, tmp_path):
    """Law 7; `invariants/test_law_7.py` kills runs of SFT."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2}
    options["target"] = Target("desperate", above_base=-0.2)
    unbroken, _ = train(CASES[name], tmp_path, default_penalties(), **options)
    resumed, _ = train(CASES[name], tmp_path, default_penalties(), str(tmp_path / "checkpoint-3"), **options)
    assert same(resumed, unbroken)
    ours, theirs = (
        [{k: v for k, v in log.items() if k.startswith("emo")} for log in trainer.state.log_history]
        for trainer in (resumed, unbroken)
    )
    assert ours == theirs
