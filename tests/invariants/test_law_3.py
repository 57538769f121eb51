"""Law 3: how the batch is cut does not matter. One micro-batch of 8, two of 4 or four of 2: the same weights."""

import pytest
import torch
from datasets import concatenate_datasets

import emoreg.training.loss
from emoreg import Hinge, Regularizer, RegularizerCallback, default_penalties
from emoreg.regularizer.scoped import Scale
from tests.support import random_vectors, uneven_rows
from tests.trainers.cases import CASES

CUTS = [(8, 1), (4, 2), (2, 4)]
# KTO's own loss compares with the completions of other prompts of the same micro-batch, so the cut matters to the task;
# this one does without.
RUNS = {
    "SFT": ("SFT", {}),
    "DPO": ("DPO", {}),
    "KTO": ("KTO", {"loss_type": "apo_zero_unpaired"}),
    "GRPO": ("GRPO", {}),
    "GRPO by sequences": ("GRPO", {"loss_type": "grpo"}),
    "RLOO": ("RLOO", {}),
}


def rows(name: str):
    """Five windows of 8 rows to the two epochs, of which the last is partial: 4 rows."""
    if name == "SFT":
        return uneven_rows(36)
    data = CASES[name].data()
    return concatenate_datasets([data] * 4 + [data.select(range(4))])


def weights(run: str, cut: tuple[int, int], output_dir, steps: int = 10):
    name, options = RUNS[run]
    case = CASES[name]
    model = case.model()
    vectors = random_vectors(model)
    torch.manual_seed(0)
    trainer = case.trainer(
        model, output_dir, data=rows(name), max_steps=steps, learning_rate=1e-2, lr_scheduler_type="constant",
        optim="sgd",  # Adam divides by gradients, and makes much of those that are 0 but for rounding
        per_device_train_batch_size=cut[0], gradient_accumulation_steps=cut[1], **options,
    )  # fmt: skip
    penalties = [*default_penalties(hinge=0.5), Hinge("calm", weight=0.5, threshold=-0.5, scope="all")]
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, penalties)))
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def apart(a, b) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("run", RUNS)
def test_weights_after_ten_steps_do_not_depend_on_the_cut(run, tmp_path):
    whole, *parts = (weights(run, cut, tmp_path / str(cut)) for cut in CUTS)
    assert apart(whole, CASES[RUNS[run][0]].model().state_dict()) > 1e-3, "the run moves the weights"
    for part in parts:
        assert apart(part, whole) <= 1e-5


def test_a_mean_of_means_over_tokens_would_fail(tmp_path, monkeypatch):
    def naive(trainer, batch, num_items):
        return Scale("scope", 1 / trainer.current_gradient_accumulation_steps)

    monkeypatch.setattr(emoreg.training.loss, "scale_of", naive)
    whole, part = (weights("SFT", cut, tmp_path / str(cut)) for cut in (CUTS[0], CUTS[2]))
    assert apart(part, whole) > 1e-4
