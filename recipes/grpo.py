"""Group relative policy optimisation while an emotion is kept down.

    accelerate launch recipes/grpo.py --config configs/grpo.yaml --learning_rate 1e-5

Every option of TRL's `ScriptArguments` and `DatasetMixtureConfig`, `GRPOConfig` and `ModelConfig`, of emoreg's
`RegularizerConfig`, and of `RewardArguments` below, in the YAML file or on the command line, which wins. For RLOO, put
`RLOOConfig` and `RLOOTrainer` in their place.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from datasets import load_dataset
from trl import (
    DatasetMixtureConfig,
    GRPOConfig,
    GRPOTrainer,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from emoreg import EmotionReward, Hinge, RegularizerCallback
from emoreg.training import RegularizerConfig


@dataclass
class RewardArguments:
    """What the policy is rewarded for. `--reward_weights` weighs the rewards, in the order given here."""

    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "Functions of trl.rewards by name, others by dotted path (my_module.name)."}
    )
    reward_model_name_or_path: str | None = field(default=None, metadata={"help": "A reward model: hub id or folder."})
    emotion_reward_weight: float = field(
        default=0.0, metadata={"help": "Weight of the hinge as a reward too, beside that in the loss; 0 for none."}
    )


def reward_function(name: str) -> Callable:
    """A reward function of `trl.rewards` by its name, or one of another module by its dotted path."""
    module, _, function = name.rpartition(".")
    if not module and function.startswith("get_"):
        raise ValueError(f"{name} only makes a reward function: call it in a module of your own, and name what it made")
    try:
        return getattr(import_module(module or "trl.rewards"), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"no reward function {name!r} ({error}); reward_funcs takes names of trl.rewards, as think_format_reward, "
            "and dotted paths, as my_module.my_reward"
        ) from None


def emotion_reward(regularizer: RegularizerConfig, weight: float, model: str | None) -> EmotionReward:
    """The hinge of the regularizer, with a weight of its own, as a reward."""
    threshold, scope = regularizer.hinge_threshold, regularizer.build_scope(model)
    return EmotionReward(
        regularizer.load_vectors(), [Hinge(regularizer.emotion, weight=weight, threshold=threshold, scope=scope)]
    )


def main(arguments: Sequence[str] | None = None) -> GRPOTrainer:
    """Parse, train, save."""
    groups = [ScriptArguments, DatasetMixtureConfig, GRPOConfig, ModelConfig, RegularizerConfig, RewardArguments]
    parser = TrlParser(groups)  # pyright: ignore[reportArgumentType] - it takes any dataclass
    script, mixture, training, model, regularizer, rewards = parser.parse_args_and_config(arguments)

    # First: a wrong name or file should fail before a model is loaded.
    reg = regularizer.build(model.model_name_or_path)
    sys.path.append(os.getcwd())  # for reward functions in the user's own modules
    reward_funcs: list[Any] = [reward_function(name) for name in rewards.reward_funcs or []]
    if rewards.reward_model_name_or_path:
        reward_funcs.append(rewards.reward_model_name_or_path)
    emotion = None
    if rewards.emotion_reward_weight:
        emotion = emotion_reward(regularizer, rewards.emotion_reward_weight, model.model_name_or_path)
        reward_funcs.append(emotion)
    if not reward_funcs:
        raise ValueError("no reward; give reward_funcs, reward_model_name_or_path or emotion_reward_weight")
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    if mixture.datasets:
        data = get_dataset(mixture)
    else:
        data = load_dataset(script.dataset_name, name=script.dataset_config, streaming=script.dataset_streaming)
    trainer = GRPOTrainer(
        model=model.model_name_or_path,
        reward_funcs=reward_funcs,
        args=training,
        train_dataset=data[script.dataset_train_split],
        eval_dataset=data[script.dataset_test_split] if training.eval_strategy != "no" else None,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    if emotion:
        emotion.attach(trainer)
    trainer.add_callback(RegularizerCallback(trainer, reg))
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    return trainer


if __name__ == "__main__":
    main()
