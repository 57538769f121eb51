"""The recipes, run on a small local model and data set; and every config, by its own recipe."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from emoreg import EmotionReward
from recipes import dpo, grpo
from tests import tiny
from tests.support import random_vectors

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
ROWS = {
    "dpo": [{"prompt": "What is it?", "chosen": f" There are {n} lines.", "rejected": " No."} for n in range(8)],
    "grpo": [{"prompt": [{"role": "user", "content": f"What is on list {n}?"}]} for n in range(8)],
}


@pytest.fixture
def options(tmp_path: Path):
    """A function: a recipe's name to a config file for it, on a model, data and vectors that it has made."""
    model = tiny.llama()
    model.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    random_vectors(model).save(tmp_path / "vectors")

    def write(recipe: str, **more: object) -> list[str]:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS[recipe])))
        settings = {
            "model_name_or_path": str(tmp_path / "model"),
            "dataset_name": str(tmp_path / "data"),
            "vectors": str(tmp_path / "vectors"),
            "output_dir": str(tmp_path / "run"),
            "use_peft": True,
            "lora_target_modules": "all-linear",
            "max_steps": 2,
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
        }
        if recipe == "grpo":
            settings |= {"num_generations": 4, "max_completion_length": 6, "reward_funcs": ["think_format_reward"]}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings | more))
        return ["--config", str(tmp_path / "recipe.yaml")]

    return write


def logged(trainer, name: str) -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


@pytest.mark.parametrize("recipe", [dpo, grpo], ids=["dpo", "grpo"])
class TestEachRecipe:
    def test_trains_and_saves(self, recipe, options, tmp_path):
        trainer = recipe.main(options(recipe.__name__.removeprefix("recipes.")))
        assert len(logged(trainer, "emotion/desperate/contrast")) == 2
        assert (tmp_path / "run" / "adapter_model.safetensors").is_file()

    def test_goes_on_from_a_checkpoint(self, recipe, options, tmp_path):
        arguments = options(recipe.__name__.removeprefix("recipes."), save_steps=1)
        recipe.main(arguments)
        checkpoint = str(tmp_path / "run" / "checkpoint-2")
        trainer = recipe.main([*arguments, "--max_steps", "3", "--resume_from_checkpoint", checkpoint])
        assert len(logged(trainer, "emotion/desperate/contrast")) == 3

    def test_refuses_a_wrong_file_before_it_loads_a_model(self, recipe, options, tmp_path):
        name, absent = recipe.__name__.removeprefix("recipes."), str(tmp_path / "absent")
        with pytest.raises(ValueError, match="no vectors at"):
            recipe.main([*options(name, model_name_or_path=absent), "--vectors", absent])


class TestRewardsOfGRPO:
    def test_an_emotion_reward_beside_a_function_of_a_module(self, options, tmp_path):
        (tmp_path / "short_replies.py").write_text(
            "def short(completion_ids, **kwargs):\n    return [-float(len(ids)) for ids in completion_ids]\n"
        )
        arguments = options(
            "grpo", reward_funcs=["short_replies.short"], emotion_reward_weight=2.0, hinge_threshold=-3.0
        )
        trainer = grpo.main(arguments)
        (short, reward) = trainer.reward_funcs
        assert short.__name__ == "short"
        assert isinstance(reward, EmotionReward)
        assert (reward.penalties[0].weight, reward.penalties[0].threshold) == (2.0, -3.0)
        assert all(value < 0 for value in logged(trainer, "rewards/emotion_reward/mean"))
        assert len(logged(trainer, "rewards/emotion_reward/mean")) == 2

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"reward_funcs": []}, "no reward; give reward_funcs"),
            ({"reward_funcs": ["think_fromat_reward"]}, "no reward function 'think_fromat_reward'"),
            ({"reward_funcs": ["absent_module.reward"]}, "no reward function 'absent_module.reward'"),
            ({"reward_funcs": ["get_soft_overlong_punishment"]}, "only makes a reward function: call it in a module"),
            ({"emotion_reward_weight": -1.0}, "weight must be a finite number of at least 0, got -1.0"),
        ],
    )
    def test_rewards_that_will_not_do(self, options, more, said):
        with pytest.raises(ValueError, match=said):
            grpo.main(options("grpo", model_name_or_path="absent", **more))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_read_whole(config, tmp_path):
    """Its recipe refuses an unknown key while it parses; only after that is the file of vectors missing."""
    settings = yaml.safe_load(config.read_text()) | {"vectors": str(tmp_path / "absent")}
    (tmp_path / config.name).write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="no vectors at .*absent"):
        import_module(f"recipes.{config.stem}").main(["--config", str(tmp_path / config.name), "--use_cpu"])
