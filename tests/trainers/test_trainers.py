"""What the callback does in single trainers: which positions each scope means there, and whom it refuses."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOTrainer, GRPOTrainer, SFTTrainer

from emoreg import Band, Hinge, Regularizer, RegularizerCallback, default_penalties
from emoreg.reading.scope import positions, sequences
from emoreg.training.batches import batch_of
from tests import tiny
from tests.support import random_vectors, sft_trainer, uneven_rows
from tests.trainers.cases import CASES, GOOD, PROMPTS, masked_rows
from tests.trainers.reference import states


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)


def z_of(model, vectors, texts, emotion="desperate", row=2):
    """z at a layer over all positions that count in some texts, one text at a time."""
    k, found = vectors.index(emotion), []
    for text in texts:
        with torch.no_grad():
            hidden = states(model, text.ids)[vectors.layers[row]]
        z = (hidden @ vectors.directions[row, k] - vectors.mean[row, k]) / vectors.std[row, k]
        found.append(z[text.counted])
    return torch.cat(found)


def run(name, output_dir, scope, data=None, evaluate=False, **options):
    """Train a monitor for a step; returns trainer, vectors and the batches of its loss, evaluation's after the rest."""
    case = CASES[name]
    model = case.model()
    vectors = random_vectors(model)
    if evaluate:
        options |= {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
        options["eval_dataset"] = case.data().select(range(4))
    trainer = case.trainer(model, output_dir, data=data, **options)
    batches, compute_loss = [], trainer.compute_loss

    def keeping(model, inputs, *args, **kwargs):
        batches.append((torch.is_grad_enabled(), dict(inputs)))
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = keeping
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, [], scope=scope)))
    trainer.train()
    trainer.model.eval()
    return trainer, vectors, batches


def logged(trainer, name):
    (value,) = [log[name] for log in trainer.state.log_history if name in log]
    return value


class TestPreferences:
    """Pairs: the chosen by default, or the rejected, or both. Judgements: the desirable by default."""

    @pytest.mark.parametrize("name", ["DPO", "TPO"])
    @pytest.mark.parametrize(
        ("scope", "parts"), [("completion", [0]), ("rejected:completion", [1]), ("both:last:2", [0, 1])]
    )
    def test_of_pairs_in_one_batch(self, tmp_path, name, scope, parts):
        trainer, vectors, batches = run(name, tmp_path, scope)
        branches, texts = (3 if name == "TPO" else 2), []
        for _, batch in batches:
            each = [batch[key].chunk(branches) for key in ("input_ids", "attention_mask", "completion_mask")]
            for part in parts if name == "DPO" or "both" not in scope else range(branches):
                texts += masked_rows(*(of[part] for of in each))
        if scope.endswith("last:2"):
            texts = [text._replace(counted=text.counted[-2:]) for text in texts]
        expected = z_of(trainer.model, vectors, texts).mean().item()
        assert logged(trainer, "emotion/desperate/layer_2/mean") == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("name", ["CPO", "ORPO"])
    def test_of_pairs_apart(self, tmp_path, name):
        trainer, vectors, batches = run(name, tmp_path, "rejected:completion")
        texts = []
        for _, batch in batches:
            counted = batch["rejected_labels"] != -100
            texts += masked_rows(batch["rejected_input_ids"], batch["rejected_attention_mask"], counted)
        expected = z_of(trainer.model, vectors, texts).mean().item()
        assert logged(trainer, "emotion/desperate/layer_2/mean") == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(("scope", "wanted"), [("all", [1]), ("undesirable:all", [0]), ("both:all", [0, 1])])
    def test_of_judgements(self, tmp_path, scope, wanted):
        trainer, vectors, batches = run("KTO", tmp_path, scope)
        texts = []
        for _, batch in batches:
            every = masked_rows(batch["input_ids"], batch["attention_mask"], batch["attention_mask"])
            texts += [text for text, label in zip(every, batch["label"], strict=True) if int(label) in wanted]
        expected = z_of(trainer.model, vectors, texts).mean().item()
        assert logged(trainer, "emotion/desperate/layer_2/mean") == pytest.approx(expected, rel=1e-4)

    def test_a_kind_that_the_batch_does_not_tell_apart_is_refused(self, tmp_path):
        with pytest.raises(
            ValueError, match="scope 'rejected:completion' needs a batch that tells such sequences apart"
        ):
            run("SFT", tmp_path, "rejected:completion")

    def test_a_micro_batch_without_a_desirable_row_is_no_mistake(self, tmp_path):
        label = [False, False, True, True, False, False, False, False]
        data = Dataset.from_dict({"prompt": PROMPTS, "completion": GOOD, "label": label})
        case, model = CASES["KTO"], CASES["KTO"].model()
        trainer = case.trainer(model, tmp_path, data=data, max_steps=2, per_device_train_batch_size=2)
        penalties = [Hinge("desperate", threshold=-1.0)]
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), penalties)))
        trainer.train()
        assert trainer.state.global_step == 2


class TestTools:
    def test_tokens_that_a_tool_wrote_do_not_count(self, tmp_path):
        trainer = CASES["GRPO"].trainer(CASES["GRPO"].model(), tmp_path)
        inputs = {
            "prompt_ids": torch.tensor([[0, 7, 8], [5, 6, 7]]),
            "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
            "completion_ids": torch.tensor([[11, 12, 13, 14], [15, 16, 0, 0]]),
            "completion_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
            "tool_mask": torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1]]),
        }
        batch = batch_of(trainer, inputs)
        seen = {
            "input_ids": torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            "attention_mask": torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
        }
        got = positions("completion", {**batch, **seen})
        assert got.int().tolist() == [[0, 0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 0, 0]]

    def test_in_a_run_of_grpo(self, tmp_path, monkeypatch):
        """The model's own labels hold the tool's tokens too; the trainer's mask takes them out."""
        prepare = GRPOTrainer._prepare_inputs

        def with_tool(self, inputs):
            prepared = prepare(self, inputs)
            every_third = torch.arange(prepared["completion_ids"].shape[1]) % 3 != 1
            prepared["tool_mask"] = every_third.long().expand_as(prepared["completion_ids"])
            return prepared

        monkeypatch.setattr(GRPOTrainer, "_prepare_inputs", with_tool)
        trainer, vectors, batches = run("GRPO", tmp_path, "completion")
        texts = []
        for _, batch in batches:
            rows = zip(CASES["GRPO"].sequences(batch)[0], batch["tool_mask"], batch["prompt_mask"], strict=True)
            for text, mask, prompt in rows:
                own = [at for at in text.counted if mask[at - int(prompt.sum())]]
                assert len(own) < len(text.counted) or len(text.counted) == 1
                texts.append(text._replace(counted=own))
        expected = z_of(trainer.model, vectors, texts).mean().item()
        assert logged(trainer, "emotion/desperate/layer_2/mean") == pytest.approx(expected, rel=1e-4)


class TestOnlyThePolicysPassCounts:
    """Law 6, where several passes go through the same blocks: reference passes, and KTO's for its KL estimate."""

    @pytest.mark.parametrize("name", ["DPO", "KTO", "GRPO"])
    @pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
    def test_in_evaluation_too(self, tmp_path, name, peft):
        options = {"beta": 0.1} if name == "GRPO" else {}
        options |= {"peft_config": lora()} if peft else {}
        trainer, vectors, batches = run(name, tmp_path, "completion", evaluate=True, **options)
        for training, prefix in ((True, ""), (False, "eval_")):
            texts = [text for grad, batch in batches if grad is training for text in CASES[name].sequences(batch)[0]]
            expected = z_of(trainer.model, vectors, texts).mean().item()
            assert logged(trainer, f"{prefix}emotion/desperate/layer_2/mean") == pytest.approx(expected, rel=1e-4)


class TestSubclasses:
    """A user's subclass is what it descends from."""

    def test_of_dpo_with_another_loss(self, tmp_path, monkeypatch):
        class Mine(DPOTrainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                return 2 * super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        monkeypatch.setattr("trl.DPOTrainer", Mine)
        trainer, _, batches = run("DPO", tmp_path, "completion")
        assert type(trainer) is Mine
        assert sequences("completion", batch_of(trainer, batches[0][1])).tolist() == [True, True, False, False]

    def test_of_sft_that_runs_the_batch_twice(self, tiny_llama, tiny_tokenizer, tmp_path):
        class Twice(SFTTrainer):
            def compute_loss(self, model, inputs, *args, **kwargs):
                first = super().compute_loss(model, dict(inputs), *args, **kwargs)
                return (first + super().compute_loss(model, inputs, *args, **kwargs)) / 2

        logs = []
        for kind in (SFTTrainer, Twice):
            trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, trainer_class=kind, max_steps=1)
            regularizer = Regularizer(random_vectors(tiny_llama()), default_penalties())
            trainer.add_callback(RegularizerCallback(trainer, regularizer))
            trainer.train()
            logs.append(trainer.state.log_history[0])
        assert logs[0]["emotion/desperate/mean"] == pytest.approx(logs[1]["emotion/desperate/mean"], rel=1e-5)

    @pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
    def test_of_sft_whose_loss_is_a_function(self, tiny_llama, tiny_tokenizer, tmp_path):
        """`compute_loss_func` and label smoothing keep the labels from the model."""

        def loss(outputs, labels, num_items_in_batch: Any = None):
            flat = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            return torch.nn.functional.cross_entropy(*flat, reduction="sum") / num_items_in_batch

        means = []
        for more in ({}, {"compute_loss_func": loss}, {"label_smoothing_factor": 0.1}):
            trainer_class = SFTTrainer
            if "compute_loss_func" in more:
                trainer_class = lambda **kwargs: SFTTrainer(compute_loss_func=loss, **kwargs)  # noqa: E731
                more = {}
            trainer = sft_trainer(
                tiny_llama(), tiny_tokenizer, tmp_path, trainer_class=trainer_class, max_steps=1, **more
            )
            regularizer = Regularizer(random_vectors(tiny_llama()), [Hinge("desperate", threshold=-1.0)])
            trainer.add_callback(RegularizerCallback(trainer, regularizer))
            trainer.train()
            log = trainer.state.log_history[0]
            means.append((log["emotion/desperate/mean"], log["emoreg/term"]))
        assert means[1] == pytest.approx(means[0], rel=1e-5)
        assert means[2] == pytest.approx(means[0], rel=1e-5)


class TestRefusals:
    def test_online_dpo_by_name_before_any_weight_moves(self, tmp_path):
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        model = tiny.llama()
        model.save_pretrained(tmp_path / "model")
        model.config._name_or_path = str(tmp_path / "model")
        vectors, tokenizer = random_vectors(model), tiny.tokenizer()
        tokenizer.padding_side = "left"
        args = OnlineDPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_new_tokens=6, max_steps=1,
            per_device_train_batch_size=2, gradient_checkpointing=False, learning_rate=1.0,
        )  # fmt: skip

        def length(completions, **kwargs):
            return [float(len(text)) for text in completions]

        trainer = OnlineDPOTrainer(
            model=model, reward_funcs=length, args=args, train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(vectors, [Band("desperate")])))
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        with pytest.raises(ValueError, match="OnlineDPOTrainer makes its training step without calling compute_loss"):
            trainer.train()
        assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_grpo_with_several_iterations_over_one_generation(tmp_path):
    """`num_iterations` and a generation that serves two windows: the term follows the trainer's own count of tokens."""
    case = CASES["GRPO"]
    model = case.model()
    trainer = case.trainer(
        model, tmp_path, max_steps=4, num_iterations=2, steps_per_generation=4, learning_rate=1e-3, logging_steps=1
    )
    penalties = [Hinge("desperate", threshold=-1.0)]
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), penalties)))
    scales, compute_loss = [], trainer.compute_loss

    def keeping(model, inputs, *args, **kwargs):
        scales.append((inputs["num_items_in_batch"].item(), inputs["completion_mask"].sum().item()))
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = keeping
    trainer.train()
    logs = [log for log in trainer.state.log_history if "emoreg/term" in log]
    assert len(logs) == 4
    # The same 16 completions in four steps: two windows, twice; a window's term is over half of all tokens.
    assert len({count for count, _ in scales}) == 1
    assert sum(n for _, n in scales) == 2 * scales[0][0]


def test_uneven_rows_really_are_uneven():
    assert len({len(ids) for ids in uneven_rows(8)["input_ids"]}) > 3
