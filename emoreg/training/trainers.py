"""What emoreg must know of the single trainers: their engines, and what they divide their losses by."""

from collections.abc import Mapping
from typing import Any, cast

from accelerate.utils import DistributedType
from torch import Tensor
from transformers import Trainer

from emoreg.regularizer import Scale

# Losses of GRPO that sum over tokens and divide by those of the whole window; its others are means of sequences.
_TOKEN_LOSSES = ("dapo", "cispo", "vespo", None)


def check_engine(trainer: Trainer) -> None:
    """Raise ValueError under an engine in which a rank does not see whole sequences at whole width."""
    layout: Any = trainer.accelerator.parallelism_config
    wanted = {
        "DataParallel": trainer.args.n_gpu > 1,
        "Megatron": trainer.accelerator.distributed_type == DistributedType.MEGATRON_LM,
        "tensor parallelism": trainer.get_tp_size() > 1,
        "context parallelism": layout is not None and layout.cp_enabled,
        "sequence parallelism (Ulysses)": layout is not None and layout.sp_enabled,
    }
    for engine in (name for name, found in wanted.items() if found):
        raise ValueError(
            f"emoreg does not run under {engine}; use DDP, FSDP or DeepSpeed (`accelerate launch`, with a file of "
            "configs/accelerate), or one GPU (CUDA_VISIBLE_DEVICES=0)"
        )


def partitions_checkpointed(trainer: Trainer) -> bool:
    """Whether the weights are ZeRO-3's and blocks are computed again without reentry.

    DeepSpeed 0.19 may then find weights let go in the first step's backward, if a pass without gradient came before.
    """
    plugin, args = trainer.accelerator.state.deepspeed_plugin, cast(Any, trainer.args)
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant") is True
    return plugin is not None and plugin.zero_stage == 3 and args.gradient_checkpointing and not reentrant


def backward_apart(trainer: Trainer, loss: Tensor) -> None:
    """The backward of what joins an optimizer step beside its micro-batches, before the first of them.

    In the graph of a micro-batch it would be a second way through the same weights: DDP, and ZeRO under reentrant
    checkpointing, refuse that; FSDP1 and ZeRO-3 keep the whole model gathered on every rank until both are through.
    """
    accelerator = trainer.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        assert accelerator.deepspeed_engine_wrapped is not None
        # Not the window's last micro-batch, at which it would move the weights; nor to be divided by their number.
        accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=False, scale_wrt_gas=False)
    else:
        accelerator.backward(loss)


def scale_of(trainer: Trainer, batch: Mapping[str, Tensor], num_items: Tensor | int | None) -> Scale:
    """How the term is normalised, so that it scales as the trainer's own loss does.

    * A trainer that counts the loss tokens of its whole accumulation window on all ranks (``num_items_in_batch``: SFT,
      distillation, GRPO's token losses): a sum over tokens divided by that count.
    * Any other: each sequence's mean, and the mean of those over the micro-batches of the window.
    """
    accumulation = trainer.current_gradient_accumulation_steps
    if not is_scaled(trainer, num_items):
        return Scale("sequences", once=float(accumulation))  # the trainer divides by it
    ranks = trainer.accelerator.num_processes
    generated = batch.get("num_items_in_batch")
    if generated is not None and getattr(trainer, "loss_type", None) in _TOKEN_LOSSES:
        # Of all that was generated at once, which may be several windows.
        windows = (getattr(trainer.args, "steps_per_generation", None) or accumulation) / accumulation
        return Scale("tokens", ranks * windows / generated.clamp(min=1))
    if generated is None and num_items is not None:
        return Scale("tokens", (ranks if trainer.args.average_tokens_across_devices else 1) / num_items)
    return Scale("sequences", 1 / accumulation)


def is_scaled(trainer: Trainer, num_items: Tensor | int | None) -> bool:
    """Whether `compute_loss` has already divided by the whole accumulation window (`Trainer.training_step`'s rule)."""
    stated = getattr(trainer, "loss_is_scaled_for_ga", None)
    if stated is not None:
        return stated
    return (trainer.model_accepts_loss_kwargs and num_items is not None) or trainer.compute_loss_func is not None


def is_kind(trainer: Trainer, *names: str) -> bool:
    """Whether a trainer's class, or one that it descends from, has one of these names: TRL need not be imported."""
    return any(kind.__name__.lstrip("_") in names for kind in type(trainer).__mro__)
