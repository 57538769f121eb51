"""Every engine that spreads a run over processes, as accelerate and transformers set it up, but over gloo on a CPU."""

from typing import Any

import deepspeed  # here, and not in each rank that is forked from here
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import Trainer, TrainingArguments

ENGINES = ("DDP", "FSDP2", "FSDP1", "ZeRO-1", "ZeRO-2", "ZeRO-3")


def options(engine: str) -> dict[str, Any]:
    """What a trainer's config is told. Call before it is made. DDP is told nothing, nor is ``none``: one process."""
    kind, stage = engine.rstrip("-123"), engine[-1]
    if kind == "FSDP":
        show_gpus_to_accelerate()
        # sync_module_states would look for a GPU.
        config = {"version": int(stage), "sync_module_states": False, "state_dict_type": "SHARDED_STATE_DICT"}
        return {"fsdp": True, "fsdp_config": config}
    if kind == "ZeRO":
        _build_nothing()
        # Small weights would stay whole, and so would those to be used again soon.
        small = ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size")
        zero = {f"stage3_{name}": 0 for name in small}
        zero |= {"stage": int(stage), "stage3_gather_16bit_weights_on_model_save": True}
        auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        return {
            "deepspeed": {
                "zero_optimization": zero, "zero_allow_untested_optimizer": True, **dict.fromkeys(auto, "auto"),
            }
        }  # fmt: skip
    return {}


def _build_nothing() -> None:
    """Keep DeepSpeed from compiling another way to talk on one machine.

    Killed meanwhile, it leaves a lock behind, and every run from then on waits for that.
    """
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None:  # on a CPU
        deepspeed.ops.__compatible_ops__[builder.NAME] = False


def show_gpus_to_accelerate() -> None:
    """From when a config has named the device on: on a CPU accelerate leaves FSDP and tensor parallelism out."""
    named = TrainingArguments.__post_init__

    def naming(self: TrainingArguments) -> None:
        named(self)
        PartialState._shared_state |= {"distributed_type": DistributedType.MULTI_GPU, "device": torch.device("cpu")}

    TrainingArguments.__post_init__ = naming


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """The model's weights as they would be saved: whole, on the first rank."""
    model = trainer.model_wrapped
    if isinstance(model, FullyShardedDataParallel):  # whose state_dict crashes on a CPU
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            return {n.replace("_fsdp_wrapped_module.", ""): p.detach().clone() for n, p in model.named_parameters()}
    state = trainer.accelerator.get_state_dict(model)
    return {name: value.detach().clone() for name, value in (state or {}).items()}
