"""`EmotionReward`: penalties on the policy's own activations, as a reward for TRL's GRPO and RLOO.

A regularizer's term differentiates through the directions. Here they only score: each completion is read as it is, and
the policy learns from the score as from any other reward.

Shapes: B completions of a chunk, T positions, D width, L layers, K emotions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emoreg.model import learns_prompt
from emoreg.reading import Scope, Scoped, Statistics, z_of
from emoreg.regularizer import Anchor, Band, Hinge, Penalty, Regularizer, sums_over_scope, thresholds
from emoreg.vectors import EmotionVectors

LOGGED = ("mean", "p95", "above")
"""Figures of z that are logged. The trainer averages them over batches, which would make no maximum of a maximum."""


class EmotionReward:
    """Minus the penalties of each completion, each averaged over its layers and over its positions in scope.

    Example:
        >>> reward = EmotionReward(vectors, [Hinge("desperate", weight=1.0)])
        >>> trainer = GRPOTrainer(model, reward_funcs=[task_reward, reward], args=args, train_dataset=data)
        >>> reward.attach(trainer)
        >>> trainer.train()

    The trainer logs the reward as ``rewards/emotion_reward/mean``, and z of the completions, averaged over layers, as
    ``emotion/<name>/reward_mean``, ``reward_p95`` and ``reward_above``. A policy can also raise the reward by moving
    every text down the direction; ``contrast``, from a `RegularizerCallback` beside it, tells.

    All that follows the prompt counts as completion: reward functions are not told a multi-turn rollout's `tool_mask`,
    so what tools and environments answered is scored along with what the policy wrote.
    """

    __name__ = "emotion_reward"  # what trainers call its metrics

    def __init__(
        self,
        vectors: EmotionVectors,
        penalties: Sequence[Penalty],
        *,
        scope: Scope = "completion",
        batch_size: int = 8,
    ):
        """
        Args:
            vectors: directions and their calibration, from the model that is trained.
            penalties: the `Hinge` and `Band` to score by; each has its own weight, layers and scope.
            scope: the positions that the logged figures are taken over.
            batch_size: completions per forward pass.

        Raises:
            ValueError: for no penalty, an `Anchor`, or an emotion or layer that the vectors do not have.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        scored = [penalty for penalty in penalties if isinstance(penalty, Hinge | Band)]
        if not scored or len(scored) < len(penalties):
            raise ValueError(
                f"EmotionReward takes Hinge and Band, at least one, got {[type(p).__name__ for p in penalties]}; an "
                "Anchor is about neutral text, where there is nothing to reward: give it to a Regularizer"
            )
        regularizer = Regularizer(vectors, scored, scope=scope, monitor=[])
        self.penalties = [p for p in regularizer.penalties if not isinstance(p, Anchor)]
        needed = {at for penalty in self.penalties for at in penalty.places(vectors.layers)}
        self.vectors = regularizer.vectors.select(layers=[vectors.layers[at] for at in needed])
        self.scope = scope
        self.batch_size = batch_size
        self._thresholds = thresholds(scored, self.vectors.emotions)
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Read this trainer's policy from now on.

        Args:
            trainer: a `GRPOTrainer` or `RLOOTrainer`, made with this reward among its ``reward_funcs``.

        Raises:
            ValueError: for another kind of trainer, one with a ``rollout_func``, a policy with a learned prompt or
                prefix, or vectors of another model.
        """
        kind = type(trainer).__name__
        if not hasattr(trainer, "_tokenize_prompts"):
            raise ValueError(f"EmotionReward reads the policy of a GRPOTrainer or an RLOOTrainer, got {kind}")
        if getattr(trainer, "rollout_func", None) is not None:
            raise ValueError(
                f"this {kind} has a rollout_func, which may cut prompts into tokens its own way without telling reward "
                "functions; train without it, or without EmotionReward"
            )
        if learns_prompt(trainer.model):
            raise ValueError(
                "EmotionReward runs the policy's blocks alone, without the prompt or prefix that this one learns; use "
                "LoRA, or penalise in the loss"
            )
        self.vectors.check(trainer.model)
        self._trainer = trainer

    def __call__(
        self,
        prompts: list,
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """The reward of each completion: 0 or less, and 0 for one with no position in scope.

        Args:
            prompts: texts or conversations.
            completion_ids: the tokens that followed each.
            log_metric: takes a name and a number.
            **kwargs: what else trainers hand to reward functions.

        Raises:
            ValueError: if no trainer is attached, a prompt holds an image, or a reading is not finite.
        """
        trainer = self._trainer
        if trainer is None:
            raise ValueError("this EmotionReward is not attached; call reward.attach(trainer) before trainer.train()")
        prompt_ids, images, _ = trainer._tokenize_prompts(prompts)
        if images is not None:
            raise ValueError("EmotionReward reads text, got prompts with images; take it out of reward_funcs")
        device = trainer.accelerator.device
        statistics = Statistics(self.vectors.emotions, self.vectors.layers, self._thresholds, device)
        chunks = []
        # Trainers autocast inside the model's forward, which a pass through the blocks alone does not enter.
        with trainer.accelerator.autocast():
            for first in range(0, len(prompts), self.batch_size):
                chunk = slice(first, first + self.batch_size)
                batch = Scoped(_batch(prompt_ids[chunk], completion_ids[chunk], device))
                ids, attention = batch.inputs["input_ids"], batch.inputs["attention_mask"]
                z_LBTK = z_of(trainer.model, self.vectors, ids, attention)
                statistics.update(z_LBTK, batch.positions(self.scope))
                chunks.append(self._score(z_LBTK, batch))
        rewards = torch.cat(chunks).cpu()
        if not rewards.isfinite().all():
            raise ValueError(
                "the policy's readings on its completions are not finite: its hidden states hold NaN or inf; lower the "
                "learning rate or look at the other rewards"
            )
        if log_metric is not None:
            self._log(statistics, log_metric)
        return rewards.tolist()

    def _score(self, z_LBTK: Sequence[Tensor], batch: Scoped) -> Float[Tensor, " B"]:
        of_penalties = []
        for penalty in self.penalties:
            k = self.vectors.index(penalty.emotion)
            z_LBT = torch.stack([z_LBTK[at][..., k] for at in penalty.places(self.vectors.layers)])
            sums_B, counts_B = sums_over_scope(penalty, z_LBT, batch)
            of_penalties.append(-penalty.weight * sums_B / counts_B.clamp(min=1))
        return torch.stack(of_penalties).sum(0)

    def _log(self, statistics: Statistics, log_metric: Callable[[str, float], None]) -> None:
        tables, _ = statistics.read()
        for figure in LOGGED if tables else ():
            for k, emotion in enumerate(statistics.emotions):
                log_metric(f"emotion/{emotion}/reward_{figure}", tables[figure][:, k].mean().item())


def _batch(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> dict[str, Tensor]:
    """Prompts and completions in one right-padded batch, with labels on the completions."""
    pairs = list(zip(prompts, completions, strict=True))

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=fill).to(device)

    return {
        "input_ids": padded([[*prompt, *completion] for prompt, completion in pairs], 0),
        "labels": padded([[-100] * len(prompt) + list(completion) for prompt, completion in pairs], -100),
        "attention_mask": padded([[1] * (len(prompt) + len(completion)) for prompt, completion in pairs], 0),
    }
