"""A term that is not finite after its first step: left out and counted, or the end of the run; never in a gradient."""

import pytest
import torch
from transformers import TrainerCallback

from emoreg import Anchor, Hinge, Regularizer, RegularizerCallback
from emoreg.regularizer.penalties import default_penalties
from tests.support import padded, random_vectors, sft_trainer, uneven_rows


class Overflow(Hinge):
    """A hinge whose square overflows at some calls."""

    at = ()
    calls = 0

    def __call__(self, z):
        type(self).calls += 1
        scale = 1e30 if self.calls in self.at else 1.0
        return torch.relu((z - self.threshold) * scale).square()


def train(model, tokenizer, tmp_path, penalties, steps=6, **options):
    Overflow.calls = 0
    trainer = sft_trainer(
        model, tokenizer, tmp_path, uneven_rows(16), max_steps=steps, gradient_accumulation_steps=1, learning_rate=1e-3
    )
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), penalties, **options)))
    trainer.train()
    return trainer


@pytest.fixture
def overflow(monkeypatch):
    def at(*calls):
        monkeypatch.setattr(Overflow, "at", calls)
        return Overflow("desperate", threshold=-1.0)

    return at


def test_skip_goes_on_and_counts(tiny_llama, tiny_tokenizer, tmp_path, overflow):
    trainer = train(tiny_llama(), tiny_tokenizer, tmp_path, [overflow(3, 4)], non_finite="skip")
    skipped = [log["emoreg/skipped"] for log in trainer.state.log_history if "emoreg/skipped" in log]
    assert skipped == [0, 1, 1, 0, 0]
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_skipped_step_is_the_tasks_own(tiny_llama, tiny_tokenizer, tmp_path, overflow):
    """Skipped at every step but the first, whose weight is 0 too: bitwise a run without a term."""
    skipped = train(
        tiny_llama(), tiny_tokenizer, tmp_path, [overflow(*range(2, 99))], non_finite="skip",
        schedule=lambda step: 0.0 if step == 0 else 1.0 if step > 1 else 1e-30,
    )  # fmt: skip
    plain = train(tiny_llama(), tiny_tokenizer, tmp_path, [])
    ours, theirs = dict(skipped.model.named_parameters()), dict(plain.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_stop_ends_the_run_at_the_next_log(tiny_llama, tiny_tokenizer, tmp_path, overflow):
    model = tiny_llama()
    with pytest.raises(ValueError, match='1 penalties were not finite since the last log.*non_finite="skip"'):
        train(model, tiny_tokenizer, tmp_path, [overflow(3)])
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_hidden_state_that_is_not_finite_in_scope_leaves_no_nan_through_the_term(tiny_llama):
    """Its NaN is cut off: the term's own gradient is 0 in that batch, and that of the next one as ever."""
    model, batch = tiny_llama(), padded(uneven_rows(3))
    regularizer = Regularizer(random_vectors(model), [Hinge("desperate", threshold=-1.0)], non_finite="skip")
    with regularizer.attach(model) as term:
        model(**batch)
        term.loss(batch)
        hook = model.model.layers[1].register_forward_hook(
            lambda module, args, output: torch.where(torch.arange(output.shape[1])[:, None] == 4, torch.inf, output),
        )
        model(**batch)
        hook.remove()
        spoiled = term.loss(batch)
        assert spoiled.item() == 0.0
        model(**batch)
        term.loss(batch).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_anchor_too(tiny_llama, tiny_tokenizer, tmp_path, monkeypatch):
    calls = []

    def spoiled(self, z, z_base):
        calls.append(1)
        return (z - z_base).square() * (torch.inf if len(calls) == 2 else 1.0)

    monkeypatch.setattr(Anchor, "__call__", spoiled)
    trainer = train(tiny_llama(), tiny_tokenizer, tmp_path, [Anchor("desperate", every=1)], steps=4, non_finite="skip")
    skipped = [log["emoreg/skipped"] for log in trainer.state.log_history if "emoreg/skipped" in log]
    assert skipped == [1, 0, 0]
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_at_the_first_step_it_always_stops(tiny_llama, tiny_tokenizer, tmp_path, overflow):
    with pytest.raises(ValueError, match="hinge|overflow"):
        train(tiny_llama(), tiny_tokenizer, tmp_path, [overflow(1)], non_finite="skip")


def test_a_term_without_a_parameter_to_train_is_refused_before_the_first_step(tiny_llama, tiny_tokenizer, tmp_path):
    """Also where embeddings want a gradient, as under checkpointing with adapters, and none is kept."""
    model, steps = tiny_llama(), []
    vectors = random_vectors(model, layers=[0, 1])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".layers.3." in name)
    model.enable_input_require_grads()

    class Count(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            steps.append(1)

    trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, default_penalties())))
    trainer.add_callback(Count())
    with pytest.raises(ValueError, match="the penalties have no gradient from layer 0"):
        trainer.train()
    assert not steps
