"""`EmotionReward` against a plain reading of each completion, in real GRPO and RLOO runs, and on a planted truth."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from emoreg import Anchor, Band, EmotionReward, Hinge
from emoreg.model.wrappers import unwrap
from tests import tiny
from tests.support import QUIET, random_vectors

TEXTS = ["Is it open?", "What is on the list?", "Who?", "When does it close, and who has the key?"]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]
COMPLETIONS = [[70, 80, 90, 100], [71], list(range(60, 80)), [200, 201, 202]]


def trainer_of(model, reward_funcs, output_dir, kind=GRPOTrainer, prompts=TEXTS, **options):
    """A real trainer on the CPU: four completions of each prompt, logs at every step, saves nothing."""
    config = {GRPOTrainer: GRPOConfig, RLOOTrainer: RLOOConfig}[kind]
    peft_config = options.pop("peft_config", None)
    settings = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "beta": 0.0,
        **QUIET,
    }
    data = Dataset.from_list([{"prompt": prompt} for prompt in prompts * 4])
    return kind(
        model=model,
        reward_funcs=reward_funcs,
        args=config(output_dir=str(output_dir), **(settings | options)),
        train_dataset=data,
        eval_dataset=data.select(range(2)),
        processing_class=tiny.tokenizer(),
        peft_config=peft_config,
    )


def attached(model, penalties, output_dir, **options):
    batch_size = options.pop("batch_size", 8)
    reward = EmotionReward(random_vectors(model), penalties, batch_size=batch_size)
    trainer = trainer_of(model, [reward], output_dir, **options)
    reward.attach(trainer)
    return reward, trainer


def plain_z(model, vectors, ids):
    """(T, L, K) z of one sequence without padding, written out."""
    last = []
    handle = unwrap(model).model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    model.eval()
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    handle.remove()
    blocks = [*states[1:-1], last[0]]  # of the last block, transformers gives the normed output
    readings = torch.stack(
        [blocks[layer][0] @ vectors.directions[row].T for row, layer in enumerate(vectors.layers)], 1
    )
    return (readings - vectors.mean) / vectors.std


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


class TestItIsTheMeanPenalty:
    """Of each completion by itself, whatever else is in its chunk."""

    @pytest.mark.parametrize("batch_size", [1, 3, 64])
    @pytest.mark.parametrize("prompts", [TEXTS, CHATS], ids=["text", "chat"])
    @pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
    def test_against_a_plain_reading(self, tiny_llama, tmp_path, batch_size, prompts, lora):
        penalties = [
            Hinge("desperate", weight=0.5, threshold=-1.0),
            Band("calm", weight=2.0, low=-0.5, high=0.5, layers=[3, 1], scope="last:2"),
            Hinge("sad", weight=1.0, layers=[0], scope="reply_start"),
        ]
        model = tiny_llama(attention_dropout=0.5)
        peft_config = LoraConfig(target_modules="all-linear", init_lora_weights=False) if lora else None
        options = {"prompts": prompts, "batch_size": batch_size, "peft_config": peft_config}
        reward, trainer = attached(model, penalties, tmp_path, **options)
        trainer.model.train()
        got = reward(prompts=prompts, completions=[], completion_ids=COMPLETIONS)
        assert all(module.training for module in trainer.model.modules())

        tokenizer, vectors = tiny.tokenizer(), reward.vectors
        expected = []
        for prompt, completion in zip(prompts, COMPLETIONS, strict=True):
            if prompts is TEXTS:
                before = tokenizer(prompt)["input_ids"]
            else:
                before = [*tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]]
            z = plain_z(trainer.model, vectors, before + completion)
            desperate, calm, sad = (z[..., vectors.index(name)] for name in ("desperate", "calm", "sad"))
            n = len(before)
            total = 0.5 * (desperate[n:] + 1.0).relu().square().mean()
            total += 2.0 * ((calm[n:][-2:, [3, 1]].abs() - 0.5).relu().square()).mean()
            total += sad[n - 1, 0].relu().square()
            expected.append(-total.item())
        assert got == pytest.approx(expected, rel=1e-5)
        assert len({round(value, 3) for value in got}) == 4

    def test_0_where_nothing_is_in_scope(self, tiny_llama, tmp_path):
        def long_only(batch):
            return (batch["attention_mask"].sum(1, keepdim=True) > 22) & (batch["labels"] != -100)

        reward, _ = attached(tiny_llama(), [Hinge("sad", threshold=-9.0, scope=long_only)], tmp_path)
        rewards = reward(prompts=TEXTS, completion_ids=COMPLETIONS)
        assert [value < 0 for value in rewards] == [False, False, True, True]
        assert rewards[:2] == [0, 0]

    def test_what_it_logs(self, tiny_llama, tmp_path):
        model, logged = tiny_llama(), {}
        reward, _ = attached(model, [Hinge("sad", layers=[1, 2]), Band("calm", layers=[2])], tmp_path, batch_size=3)
        reward(prompts=TEXTS, completion_ids=COMPLETIONS, log_metric=logged.__setitem__)
        figures = ("mean", "p95", "above")
        assert set(logged) == {f"emotion/{name}/reward_{figure}" for name in ("sad", "calm") for figure in figures}
        ids = [(tiny.tokenizer()(text)["input_ids"], ids) for text, ids in zip(TEXTS, COMPLETIONS, strict=True)]
        z = torch.cat([plain_z(model, reward.vectors, [*p, *c])[len(p) :, :, 0] for p, c in ids])
        assert logged["emotion/sad/reward_mean"] == pytest.approx(z.mean().item(), rel=1e-4)
        assert logged["emotion/sad/reward_above"] == pytest.approx((z > 0).float().mean().item(), rel=1e-4)

    def test_nothing_is_left_behind_when_the_model_raises(self, tiny_llama, tmp_path, monkeypatch):
        reward, trainer = attached(tiny_llama(), [Hinge("sad")], tmp_path)
        model = trainer.model.train()
        before = hooks(model)

        def broken(*args, **kwargs):
            raise RuntimeError("no")

        monkeypatch.setattr(model.model.layers[2], "forward", broken)
        with pytest.raises(RuntimeError, match="no"):
            reward(prompts=TEXTS, completion_ids=COMPLETIONS)
        assert hooks(model) == before
        assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", [GRPOTrainer, RLOOTrainer])
class TestInARun:
    """TRL's trainers call it, learn from it and log it."""

    @pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another"])
    def test_it_is_logged_and_weights_move(self, tiny_llama, tmp_path, kind, others):
        def length(completion_ids, **kwargs):
            return [float(len(ids)) for ids in completion_ids]

        model = tiny_llama()
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        reward = EmotionReward(random_vectors(model), [Hinge("desperate", weight=1.0, threshold=-5.0)])
        trainer = trainer_of(model, [length] * others + [reward], tmp_path, kind)
        reward.attach(trainer)
        trainer.train()
        trainer.evaluate()
        logs = [log for log in trainer.state.log_history if "rewards/emotion_reward/mean" in log]
        assert len(logs) == 2
        assert all(log["rewards/emotion_reward/mean"] < 0 for log in logs)
        assert all("emotion/desperate/reward_mean" in log for log in logs)
        assert "eval_emotion/desperate/reward_mean" in trainer.state.log_history[-1]
        assert any(not torch.equal(p, start[name]) for name, p in model.named_parameters())
        assert hooks(model) == 0

    def test_the_policy_learns_to_write_what_reads_calm(self, tiny_llama, tmp_path, kind):
        """Planted: half of the tokens carry the direction, half its opposite. Only the head is trained, so that the
        readings of a token stay as they are and nothing but the choice of tokens can raise the reward."""
        model, half = tiny_llama(), 130
        direction = nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
        with torch.no_grad():
            sign = torch.where(torch.arange(259) < half, 1.0, -1.0)
            model.model.embed_tokens.weight += 0.25 * sign[:, None] * direction
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("lm_head"))
        vectors = random_vectors(model, ["desperate"])
        vectors = replace(vectors, directions=direction.expand(4, 1, 32).contiguous())
        desperate = []

        def share(completion_ids, **kwargs):
            tokens = [token for ids in completion_ids for token in ids]
            desperate.append(sum(token < half for token in tokens) / len(tokens))
            return [0.0] * len(completion_ids)

        reward = EmotionReward(vectors, [Hinge("desperate", weight=1.0)])
        options = {"per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 8}
        trainer = trainer_of(model, [reward, share], tmp_path, kind, max_steps=20, learning_rate=0.1, **options)
        reward.attach(trainer)
        trainer.train()
        logged = [log["rewards/emotion_reward/mean"] for log in trainer.state.log_history if "reward" in log]
        assert desperate[0] > 0.4
        assert max(desperate[-3:]) < 0.1
        assert logged[0] < -10
        assert min(logged[-3:]) > -1


class TestErrors:
    """Each names what was got, what was expected and what to do."""

    def test_not_attached(self, tiny_llama):
        reward = EmotionReward(random_vectors(tiny_llama()), [Hinge("sad")])
        with pytest.raises(ValueError, match=r"not attached; call reward\.attach\(trainer\) before"):
            reward(prompts=TEXTS, completion_ids=COMPLETIONS)

    @pytest.mark.parametrize(
        ("penalties", "said"),
        [
            ([Hinge("sad"), Anchor("sad")], r"got \['Hinge', 'Anchor'\]; .* give it to a Regularizer"),
            ([], r"Hinge and Band, at least one, got \[\]"),
            ([Hinge("sed")], "did you mean 'sad'"),
            ([Hinge("sad", layers=[7])], "layer 7 is out of range"),
            ([Hinge("sad"), Hinge("sad", layers=[1])], "two penalties of one name"),
        ],
    )
    def test_penalties_that_will_not_do(self, tiny_llama, penalties, said):
        with pytest.raises(ValueError, match=said):
            EmotionReward(random_vectors(tiny_llama()), penalties)

    def test_a_batch_size_of_none(self, tiny_llama):
        with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
            EmotionReward(random_vectors(tiny_llama()), [Hinge("sad")], batch_size=0)

    def test_another_kind_of_trainer(self, tiny_llama):
        with pytest.raises(ValueError, match="a GRPOTrainer or an RLOOTrainer, got object"):
            EmotionReward(random_vectors(tiny_llama()), [Hinge("sad")]).attach(object())

    def test_a_rollout_function(self, tiny_llama, tmp_path):
        reward, trainer = attached(tiny_llama(), [Hinge("sad")], tmp_path)
        trainer.rollout_func = lambda prompts, trainer: {}
        with pytest.raises(ValueError, match="has a rollout_func"):
            reward.attach(trainer)

    def test_vectors_of_another_model(self, tiny_llama, tmp_path):
        reward = EmotionReward(random_vectors(tiny_llama(seed=3)), [Hinge("sad")])
        with pytest.raises(ValueError, match="weights are unrelated"):
            reward.attach(trainer_of(tiny_llama(), [reward], tmp_path))

    def test_images(self, tiny_llama, tmp_path, monkeypatch):
        reward, trainer = attached(tiny_llama(), [Hinge("sad")], tmp_path)
        monkeypatch.setattr(trainer, "_tokenize_prompts", lambda prompts: ([[5]] * 4, [["an image"]] * 4, {}))
        with pytest.raises(ValueError, match="got prompts with images"):
            reward(prompts=CHATS, completion_ids=COMPLETIONS)

    def test_nan_in_the_weights(self, tiny_llama, tmp_path):
        reward, trainer = attached(tiny_llama(), [Hinge("sad")], tmp_path)
        with torch.no_grad():
            trainer.model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
        with pytest.raises(ValueError, match="readings on its completions are not finite"):
            reward(prompts=TEXTS, completion_ids=COMPLETIONS)
