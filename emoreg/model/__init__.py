"""What must be known of a Hugging Face model: wrappers, blocks, hooks, shards, and passes run for their hooks alone."""

from emoreg.model.blocks import backbone, check_layers, decoder_blocks, depth, text_config, width
from emoreg.model.counted import CountedPasses, Mode
from emoreg.model.hooks import hook_blocks, steer
from emoreg.model.passes import evaluating, run_to, run_whole
from emoreg.model.sharded import compute_device, embeddings, gathered, input_device, is_sharded, named_weights
from emoreg.model.wrappers import (
    active_adapters,
    base_is_rewritten,
    learns_prompt,
    unwrap,
    virtual_tokens,
    without_adapters,
)

__all__ = [
    "CountedPasses",
    "Mode",
    "active_adapters",
    "backbone",
    "base_is_rewritten",
    "check_layers",
    "compute_device",
    "decoder_blocks",
    "depth",
    "embeddings",
    "evaluating",
    "gathered",
    "hook_blocks",
    "input_device",
    "is_sharded",
    "learns_prompt",
    "named_weights",
    "run_to",
    "run_whole",
    "steer",
    "text_config",
    "unwrap",
    "virtual_tokens",
    "width",
    "without_adapters",
]
