"""The laws of ARCHITECTURE.md, for `SFTTrainer`. Each test's name states its law."""

import copy

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import TrainerCallback

from emoreg import Hinge, Regularizer, RegularizerCallback, default_penalties
from emoreg.model.blocks import decoder_blocks
from tests.support import padded, random_vectors, sft_trainer, uneven_rows


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1, init_lora_weights=False)


def run(model, tokenizer, tmp_path, penalties=None, peft=False, **options):
    """Train a copy; returns the trainer. ``penalties=None`` is a run without the callback."""
    torch.manual_seed(0)
    peft_config = {"peft_config": lora()} if peft else {}
    trainer = sft_trainer(copy.deepcopy(model), tokenizer, tmp_path, **peft_config, **options)
    if penalties is not None:
        regularizer = Regularizer(random_vectors(model), penalties)
        trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=1))
    trainer.train()
    return trainer


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestNothingForNothing:
    """Law 1: weight 0, or a monitor, leaves every weight bitwise as it is without the callback."""

    @pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
    @pytest.mark.parametrize("penalties", [[], default_penalties(hinge=0.0, anchor=0.0)], ids=["monitor", "weight 0"])
    def test_weights_are_bitwise_those_of_a_run_without_it(self, tiny_llama, tiny_tokenizer, tmp_path, penalties, peft):
        model = tiny_llama(attention_dropout=0.1)  # a random number drawn or not would show
        plain = weights(run(model, tiny_tokenizer, tmp_path, peft=peft))
        assert same(weights(run(model, tiny_tokenizer, tmp_path, penalties, peft=peft)), plain)

    def test_the_comparison_can_fail(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        plain = weights(run(model, tiny_tokenizer, tmp_path))
        assert not same(weights(run(model, tiny_tokenizer, tmp_path, [Hinge("desperate", weight=1e-3)])), plain)


class TestPaddingPackingAndOrder:
    """Law 4: left, right or no padding, packed or not, in any order: the same penalty."""

    @staticmethod
    def term(model, vectors, batch, **more):
        with Regularizer(vectors, [Hinge("desperate", threshold=-1.0)]).attach(model) as term:
            model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask"), use_cache=False, **more)
            return term.loss(batch | more).item()

    def test_left_right_and_one_by_one(self, tiny_llama):
        model, rows = tiny_llama(), uneven_rows(6)
        vectors = random_vectors(model)
        right, left = (self.term(model, vectors, padded(rows, side)) for side in ("right", "left"))
        alone = [self.term(model, vectors, padded(rows.select([i]))) for i in range(6)]
        counts = [sum(mask) for mask in rows["completion_mask"]]
        whole = sum(n * value for n, value in zip(counts, alone, strict=True)) / sum(counts)
        assert left == pytest.approx(right, rel=1e-5)
        assert whole == pytest.approx(right, rel=1e-5)

    def test_packed_into_one_row(self, tiny_llama):
        model, rows = tiny_llama(), uneven_rows(6)
        vectors = random_vectors(model)
        flat = {
            "input_ids": torch.tensor([[i for ids in rows["input_ids"] for i in ids]]),
            "labels": torch.cat([padded(rows.select([i]))["labels"] for i in range(6)], 1),
        }
        position_ids = torch.tensor([[i for ids in rows["input_ids"] for i in range(len(ids))]])
        packed = self.term(model, vectors, flat, position_ids=position_ids)
        assert packed == pytest.approx(self.term(model, vectors, padded(rows)), rel=1e-5)

    def test_order(self, tiny_llama):
        model, rows = tiny_llama(), uneven_rows(6)
        vectors = random_vectors(model)
        turned = self.term(model, vectors, padded(rows.select([3, 0, 5, 1, 4, 2])))
        assert turned == pytest.approx(self.term(model, vectors, padded(rows)), rel=1e-5)

    def test_padding_that_holds_nan_does_not_matter(self, tiny_llama):
        model, rows = tiny_llama(), uneven_rows(2)
        vectors, batch = random_vectors(model), padded(rows)
        regularizer = Regularizer(vectors, [Hinge("desperate", threshold=-1.0)])
        with regularizer.attach(model) as term:
            expected = model(**batch).loss * 0 + term.loss(batch)
        spoil = torch.where(batch["attention_mask"].bool()[..., None], 0.0, torch.nan)
        hidden = [h + spoil for h in _blocks_outputs(model, batch)]
        with regularizer.attach(model) as term:
            for layer, h in enumerate(hidden):
                term.reader.on_block(layer, h)
            got = term.loss(batch)
        got.backward()
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def _blocks_outputs(model, batch):
    outputs = []
    handles = [b.register_forward_hook(lambda m, a, o: outputs.append(o)) for b in decoder_blocks(model)]
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for handle in handles:
        handle.remove()
    return outputs


class TestFailClosed:
    """Law 5: never a run that silently trains without its term."""

    def train(self, model, tokenizer, tmp_path, vectors, penalties=None, **options):
        trainer = sft_trainer(model, tokenizer, tmp_path, **options)
        regularizer = Regularizer(vectors, default_penalties() if penalties is None else penalties)
        trainer.add_callback(RegularizerCallback(trainer, regularizer))
        trainer.train()

    def test_another_models_vectors(self, tiny_llama, tiny_tokenizer, tmp_path):
        vectors = random_vectors(tiny_llama(seed=1))
        with pytest.raises(ValueError, match="weights are unrelated"):
            self.train(tiny_llama(seed=0), tiny_tokenizer, tmp_path, vectors)

    def test_another_width(self, tiny_llama, tiny_tokenizer, tmp_path):
        vectors = random_vectors(tiny_llama(hidden_size=16))
        with pytest.raises(ValueError, match="width 16; the model has width 32"):
            self.train(tiny_llama(), tiny_tokenizer, tmp_path, vectors)

    def test_a_deeper_model(self, tiny_llama, tiny_tokenizer, tmp_path):
        vectors = random_vectors(tiny_llama(num_hidden_layers=5))
        with pytest.raises(ValueError, match="layer 4 is out of range: the model has 4 blocks"):
            self.train(tiny_llama(), tiny_tokenizer, tmp_path, vectors)

    def test_unknown_emotion_suggests_the_nearest(self, tiny_llama):
        with pytest.raises(ValueError, match="unknown emotion 'desparate'; did you mean 'desperate'"):
            Regularizer(random_vectors(tiny_llama()), [Hinge("desparate")])

    def test_layer_out_of_range(self, tiny_llama):
        with pytest.raises(ValueError, match="layer 9 is out of range"):
            Regularizer(random_vectors(tiny_llama()), [Hinge("desperate", layers=[9])])

    def test_nan_in_the_weights(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        vectors = random_vectors(model)
        with torch.no_grad():
            decoder_blocks(model)[2].self_attn.o_proj.bias = nn.Parameter(torch.full((32,), torch.nan))
        with pytest.raises(ValueError, match="not finite"):
            self.train(model, tiny_tokenizer, tmp_path, vectors)

    def test_a_scope_that_selects_nothing(self, tiny_llama, tiny_tokenizer, tmp_path):
        vectors = random_vectors(tiny_llama())

        def nothing(inputs):
            return torch.zeros_like(inputs["input_ids"]).bool()

        with pytest.raises(ValueError, match="selects no position of the first step"):
            self.train(tiny_llama(), tiny_tokenizer, tmp_path, vectors, [Hinge("desperate", scope=nothing)])

    def test_a_scope_that_selects_nothing_for_a_later_step(self, tiny_llama, tiny_tokenizer, tmp_path):
        vectors, calls = random_vectors(tiny_llama()), []

        def at_first_only(inputs):
            calls.append(1)
            return torch.full_like(inputs["input_ids"], len(calls) <= 2).bool()

        with pytest.raises(ValueError, match="selected no position for a whole step"):
            self.train(tiny_llama(), tiny_tokenizer, tmp_path, vectors, [Hinge("desperate", scope=at_first_only)])

    def test_a_window_that_has_nothing_in_any_scope(self, tiny_llama, tiny_tokenizer, tmp_path):
        """The statistics' own scope too: there is nothing to log, and the run must not go on silently for that."""
        model = tiny_llama()

        def at_first_step_only(inputs):
            return torch.full_like(inputs["input_ids"], trainer.state.global_step == 0).bool()

        trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
        penalties = [Hinge("desperate", scope=at_first_step_only)]
        regularizer = Regularizer(random_vectors(model), penalties, scope=at_first_step_only)
        trainer.add_callback(RegularizerCallback(trainer, regularizer))
        with pytest.raises(ValueError, match="selected no position for a whole step"):
            trainer.train()

    def test_no_trainable_parameter_below_the_term(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        vectors = random_vectors(model, layers=[0, 1])
        top_only = LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[3])
        with pytest.raises(ValueError, match="no gradient from layer 0"):
            self.train(model, tiny_tokenizer, tmp_path, vectors, peft_config=top_only)

    def test_a_callback_that_was_not_added(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
        RegularizerCallback(trainer, Regularizer(random_vectors(model), default_penalties()))
        with pytest.raises(ValueError, match="not among the trainer's callbacks"):
            trainer.train()

    def test_a_trainer_that_goes_round_compute_loss(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
        trainer.training_step = lambda model, inputs, num_items_in_batch=None: torch.zeros(())
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), default_penalties())))
        with pytest.raises(ValueError, match="SFTTrainer makes its training step without calling compute_loss"):
            trainer.train()


class TestOnlyTheTrainingForwardCounts:
    """Law 6: evaluation, generation and passes without grad leave the penalties untouched."""

    def test_evaluation_leaves_the_training_as_it_is(self, tiny_llama, tiny_tokenizer, tmp_path):
        model, options = (
            tiny_llama(),
            {"eval_dataset": uneven_rows(6, seed=1), "eval_strategy": "steps", "eval_steps": 1},
        )
        with_eval = run(model, tiny_tokenizer, tmp_path, default_penalties(), **options)
        without = run(model, tiny_tokenizer, tmp_path, default_penalties())
        assert same(weights(with_eval), weights(without))
        train_logs = [
            [
                {k: v for k, v in log.items() if k.startswith(("emo", "loss"))}
                for log in t.state.log_history
                if "loss" in log
            ]
            for t in (with_eval, without)
        ]
        assert train_logs[0] == train_logs[1]

    def test_evaluation_has_its_own_statistics(self, tiny_llama, tiny_tokenizer, tmp_path):
        rows = uneven_rows(5, seed=1)
        model = tiny_llama()
        trainer = run(model, tiny_tokenizer, tmp_path, [], eval_dataset=rows, eval_strategy="steps", eval_steps=3,
                      learning_rate=0.0, per_device_eval_batch_size=2)  # fmt: skip
        (log,) = [log for log in trainer.state.log_history if "eval_loss" in log]
        vectors, batch = random_vectors(model), padded(rows)
        with torch.no_grad():
            hidden = _blocks_outputs(model, batch)[2]
        z = (hidden @ vectors.directions[2, 0] - vectors.mean[2, 0]) / vectors.std[2, 0]
        assert log["eval_emotion/desperate/layer_2/mean"] == pytest.approx(
            z[batch["labels"] != -100].mean().item(), rel=1e-4
        )
        assert not [name for name in log if name.startswith("emotion/")]

    def test_passes_without_grad_and_generation_are_not_read(self, tiny_llama):
        model, batch = tiny_llama(), padded(uneven_rows(3))
        vectors = random_vectors(model)
        with Regularizer(vectors, [Hinge("desperate")]).attach(model) as term:
            expected = model(**batch).loss * 0 + term.loss(batch)
            model(**batch)
            with torch.no_grad():
                model(input_ids=batch["input_ids"].flip(1))
            model.generate(batch["input_ids"][:1], max_new_tokens=3, do_sample=False)
            assert term.loss(batch).item() == expected.item()

    def test_a_batch_in_chunks_of_rows_is_one_batch(self, tiny_llama):
        model, batch = tiny_llama(), padded(uneven_rows(5))
        with Regularizer(random_vectors(model), [Hinge("desperate", threshold=-1.0)]).attach(model) as term:
            model(**batch)
            whole = term.loss(batch)
            for rows in (slice(0, 3), slice(3, 4), slice(4, 5)):
                model(**{name: value[rows] for name, value in batch.items()})
            assert term.loss(batch).item() == pytest.approx(whole.item(), rel=1e-5)

    def test_what_a_pass_that_does_not_count_was_given_is_not_the_next_ones(self, tiny_llama):
        """A trainer may run the whole model without grad, and then its decoder alone."""
        model, batch = tiny_llama(), padded(uneven_rows(3))
        penalties = [Hinge("desperate", threshold=-1.0, scope="all")]
        with Regularizer(random_vectors(model), penalties, scope="all").attach(model) as term:
            model.model(input_ids=batch["input_ids"])
            expected = term.loss().item()
            with torch.no_grad():
                model(**batch)
            model.model(input_ids=batch["input_ids"])
            assert term.loss().item() == expected

    def test_a_term_without_a_pass_is_refused(self, tiny_llama):
        model, batch = tiny_llama(), padded(uneven_rows(3))
        with Regularizer(random_vectors(model), [Hinge("desperate")]).attach(model) as term:
            with torch.no_grad():
                model(**batch)
            with pytest.raises(ValueError, match="expected a forward pass through the model's blocks, saw none"):
                term.loss(batch)

    def test_labels_of_another_shape_are_refused(self, tiny_llama):
        model, batch = tiny_llama(), padded(uneven_rows(3))
        with Regularizer(random_vectors(model), [Hinge("desperate")]).attach(model) as term:
            model(input_ids=batch["input_ids"][:, 1:])
            with pytest.raises(ValueError, match=r"the batch has labels of shape \(3, \d+\) and a forward pass read"):
                term.loss(batch)


class TestItCleansUp:
    """Law 8: after training, an exception or Ctrl-C, no hook and no wrapped method is left."""

    @staticmethod
    def trace(trainer):
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trainer.model.modules())
        wrapped = {name for name, value in vars(trainer).items() if callable(value)}
        printers = [name for c in trainer.callback_handler.callbacks for name in vars(c) if name == "on_log"]
        return hooks, wrapped, printers

    @pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("where", ["on_step_begin", "on_step_end", "on_log"])
    def test_nothing_is_left(self, tiny_llama, tiny_tokenizer, tmp_path, error, where):
        class Fails(TrainerCallback):
            pass

        def fail(self, args, state, control, **kwargs):
            if error is not None and state.global_step == 1:
                raise error("in the middle")

        setattr(Fails, where, fail)
        model = tiny_llama()
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
        before = self.trace(trainer)
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), default_penalties())))
        trainer.add_callback(Fails)
        if error is None:
            trainer.train()
        else:
            with pytest.raises(error):
                trainer.train()
        assert self.trace(trainer) == before

    def test_a_second_run_trains_under_the_term_and_cleans_up_too(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
        before = self.trace(trainer)
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), default_penalties())))
        trainer.train()
        trainer.train()
        assert any("emoreg/term" in log for log in trainer.state.log_history)
        assert self.trace(trainer) == before

    def test_a_raw_loop_that_fails(self, tiny_llama):
        model = tiny_llama()
        with pytest.raises(RuntimeError, match="loop"), Regularizer(random_vectors(model)).attach(model):
            raise RuntimeError("loop")
        assert not any(block._forward_hooks for block in decoder_blocks(model))


class TestOneSite:
    """Law 10: every part reads the same tensor, the last block included."""

    def test_extraction_training_and_steering_meet_at_the_last_block(self, tiny_llama):
        from emoreg.model.hooks import steer
        from emoreg.model.passes import run_to

        model, batch = tiny_llama().eval(), padded(uneven_rows(3))
        vectors, last = random_vectors(model), 3
        by_hand = _blocks_outputs(model, batch)[last]

        extracted = {}
        run_to(model, [last], lambda layer, h: extracted.update({layer: h}),
               input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])  # fmt: skip
        assert torch.equal(extracted[last], by_hand)

        with Regularizer(vectors).attach(model) as term:
            model(**batch)
            trained = term.reader.take()[0].all[last]
        expected = (by_hand @ vectors.directions[last].T - vectors.mean[last]) / vectors.std[last]
        torch.testing.assert_close(trained, expected, rtol=1e-5, atol=1e-5)

        push = 0.3 * vectors.directions[last, :1]
        with steer(model, [last], push):
            steered = _blocks_outputs(model, batch)[last]
        torch.testing.assert_close(steered, by_hand + push[0])
