"""Tiny random models of many families, and where the decoder blocks of each are. The places were written by hand."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

BLOCKS = 3
IDS: dict[str, Any] = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE: dict[str, Any] = IDS | {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 128,
}
HEADS: dict[str, Any] = BASE | {"num_key_value_heads": 2, "head_dim": 8}
GPT: dict[str, Any] = IDS | {"n_embd": 16, "n_layer": BLOCKS, "n_head": 2, "n_positions": 128}
EXPERTS: dict[str, Any] = HEADS | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
MAMBA: dict[str, Any] = IDS | {"hidden_size": 16, "num_hidden_layers": BLOCKS, "state_size": 4}
STATES: dict[str, Any] = {"mamba_d_state": 4, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
# As deep and as wide as the text tower, so that nothing but its place tells it apart.
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
PATCHES: dict[str, Any] = {"depth": BLOCKS, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
IMAGE_TOKENS: dict[str, Any] = {
    "image_token_id": 250,
    "video_token_id": 251,
    "vision_start_token_id": 252,
    "vision_end_token_id": 253,
}


@dataclass(frozen=True)
class Family:
    """Where a model type's blocks are, and settings that make it tiny."""

    blocks: str
    settings: dict[str, Any]
    next_state: int = 1
    """Block l's output is ``hidden_states[l + next_state]``."""
    left: bool = True
    """Whether left padding without `position_ids` gives the same states. Not with learned positions counted from the
    first column, nor where a recurrent state runs through the padding."""
    vision: str | None = None
    """Where the vision tower is."""


def vlm(blocks: str, vision: str, text: dict[str, Any], tower: dict[str, Any], **kwargs: Any) -> Family:
    return Family(blocks, {"text_config": text, "vision_config": tower} | kwargs, vision=vision)


# fmt: off
FAMILIES: dict[str, Family] = {
    # Decoders of the Llama kind.
    "llama": Family("model.layers", HEADS),
    "mistral": Family("model.layers", HEADS),
    "ministral": Family("model.layers", HEADS),
    "qwen2": Family("model.layers", HEADS),
    "qwen3": Family("model.layers", HEADS),
    "gemma": Family("model.layers", HEADS),
    "gemma2": Family("model.layers", HEADS),
    "gemma3_text": Family("model.layers", HEADS),
    "gemma4_text": Family("model.layers", HEADS | {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 259,
                                                   "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
                                                   "num_kv_shared_layers": 0, "global_head_dim": 8}),
    "phi3": Family("model.layers", HEADS),
    "olmo2": Family("model.layers", HEADS),
    "olmo3": Family("model.layers", HEADS),
    "starcoder2": Family("model.layers", HEADS),
    "stablelm": Family("model.layers", HEADS),
    "granite": Family("model.layers", HEADS | {"residual_multiplier": 0.3, "embedding_multiplier": 3.0}),
    "glm4": Family("model.layers", HEADS),
    "smollm3": Family("model.layers", HEADS),
    "nemotron": Family("model.layers", HEADS),
    "minicpm3": Family("model.layers", BASE | LATENT),
    # Attention and MLP beside each other.
    "phi": Family("model.layers", HEADS),
    "cohere": Family("model.layers", HEADS),
    "cohere2": Family("model.layers", HEADS),
    "gptj": Family("transformer.h", GPT | {"rotary_dim": 4}, left=False),
    "gpt_neox": Family("gpt_neox.layers", BASE),
    "falcon": Family("transformer.h", BASE | {"num_kv_heads": 2}),
    # Learned positions, ALiBi, blocks under other names.
    "gpt2": Family("transformer.h", GPT, left=False),
    "gpt_bigcode": Family("transformer.h", GPT, left=False),
    "gpt_neo": Family("transformer.h", BASE | {"attention_types": [[["global", "local"], 1], [["global"], 1]]},
                      left=False),
    "openai-gpt": Family("transformer.h", GPT, left=False),
    "opt": Family("model.decoder.layers", BASE | {"ffn_dim": 24, "word_embed_proj_dim": 8}),
    "bloom": Family("transformer.h", IDS | {"hidden_size": 16, "n_layer": BLOCKS, "n_head": 2}),
    "mpt": Family("transformer.blocks", IDS | {"d_model": 16, "n_layers": BLOCKS, "n_heads": 2, "max_seq_len": 128}),
    "xglm": Family("model.layers", IDS | {"d_model": 16, "num_layers": BLOCKS, "attention_heads": 2, "ffn_dim": 24},
                   left=False),
    "bert": Family("bert.encoder.layer", BASE | {"is_decoder": True}, left=False),
    "modernbert-decoder": Family("model.layers", BASE),
    # Mixtures of experts.
    "mixtral": Family("model.layers", HEADS | {"num_local_experts": 4}),
    "qwen2_moe": Family("model.layers", EXPERTS | {"shared_expert_intermediate_size": 8}),
    "qwen3_moe": Family("model.layers", EXPERTS),
    "olmoe": Family("model.layers", EXPERTS),
    "granitemoe": Family("model.layers", HEADS | {"num_local_experts": 4}),
    "gpt_oss": Family("model.layers", HEADS | {"num_local_experts": 4}),
    "deepseek_v3": Family("model.layers", BASE | LATENT | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                                                           "num_experts_per_tok": 2, "moe_intermediate_size": 8,
                                                           "first_k_dense_replace": 1, "num_key_value_heads": 2}),
    "llama4_text": Family("model.layers", HEADS | {"num_local_experts": 3, "intermediate_size_mlp": 24}),
    # Its blocks are double: config.num_hidden_layers counts halves.
    "longcat_flash": Family("model.layers", IDS | LATENT | {"hidden_size": 16, "num_layers": BLOCKS, "head_dim": 4,
                                                            "num_attention_heads": 2, "ffn_hidden_size": 24,
                                                            "expert_ffn_hidden_size": 8, "moe_topk": 2,
                                                            "n_routed_experts": 4, "zero_expert_num": 2}),
    # State spaces, recurrences and their mixtures with attention. Mamba keeps a block's output, not its input.
    "mamba": Family("backbone.layers", MAMBA, 0),
    "mamba2": Family("backbone.layers", MAMBA | {"num_heads": 4, "head_dim": 8, "n_groups": 1}, 0),
    "falcon_mamba": Family("backbone.layers", MAMBA, 0),
    "rwkv": Family("rwkv.blocks", IDS | {"hidden_size": 16, "num_hidden_layers": BLOCKS}, 0, left=False),
    "recurrent_gemma": Family("model.layers", HEADS | {"lru_width": 16, "attention_window_size": 32}, left=False),
    "jamba": Family("model.layers", HEADS | {"mamba_d_state": 4, "num_experts": 4, "attn_layer_period": 2,
                                             "attn_layer_offset": 1, "expert_layer_period": 2,
                                             "use_mamba_kernels": False}),
    "bamba": Family("model.layers", HEADS | STATES | {"attn_layer_indices": [1]}),
    "falcon_h1": Family("model.layers", HEADS | STATES | {"mamba_d_ssm": 32}),
    "zamba2": Family("model.layers", BASE | {"mamba_d_state": 4, "n_mamba_heads": 4, "num_mem_blocks": 1,
                                             "layers_block_type": ["linear_attention", "linear_attention", "hybrid"],
                                             "hybrid_layer_ids": [2]}),
    "nemotron_h": Family("model.layers", HEADS | {"layers_block_type": ["linear_attention", "full_attention", "mlp"],
                                                  "ssm_state_size": 4, "mamba_num_heads": 4, "mamba_head_dim": 8,
                                                  "n_groups": 1}),
    "lfm2": Family("model.layers", HEADS | {"layer_types": ["conv", "full_attention", "conv"]}),
    "qwen3_next": Family("model.layers", EXPERTS | {"layer_types": ["linear_attention"] * 2 + ["full_attention"],
                                                    "linear_num_value_heads": 2, "linear_num_key_heads": 2,
                                                    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                                                    "shared_expert_intermediate_size": 8}),
    # Vision-language models, on text alone.
    "llava": vlm("model.language_model.layers", "model.vision_tower", HEADS | {"model_type": "llama"},
                 VISION | {"model_type": "clip_vision_model", "projection_dim": 16}, image_token_index=250),
    "gemma3": vlm("model.language_model.layers", "model.vision_tower", HEADS, VISION, mm_tokens_per_image=4,
                  image_token_index=250),
    "qwen2_vl": vlm("model.language_model.layers", "model.visual", HEADS | {"rope_parameters": MROPE}, PATCHES,
                    **IMAGE_TOKENS),
    "qwen2_5_vl": vlm("model.language_model.layers", "model.visual", HEADS | {"rope_parameters": MROPE},
                      PATCHES | {"out_hidden_size": 16, "fullatt_block_indexes": [0]}, **IMAGE_TOKENS),
    "qwen3_vl": vlm("model.language_model.layers", "model.visual", HEADS | {"rope_parameters": MROPE},
                    PATCHES | {"out_hidden_size": 16, "deepstack_visual_indexes": [0]}, **IMAGE_TOKENS),
    "idefics3": vlm("model.text_model.layers", "model.vision_model", HEADS | {"model_type": "llama"}, VISION,
                    image_token_id=250, pad_token_id=0),
    "internvl": vlm("model.language_model.layers", "model.vision_tower", HEADS | {"model_type": "qwen2"},
                    VISION | {"image_size": [28, 28], "patch_size": [14, 14]}, image_token_id=250),
}
# fmt: on


@cache
def build(model_type: str) -> PreTrainedModel:
    """A random model of a family, in evaluation mode; the same object every time."""
    return fresh(model_type, **FAMILIES[model_type].settings)


def fresh(model_type: str, **settings: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **settings)
    kind = AutoModelForImageTextToText if "vision_config" in settings else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind.from_config(config).eval()
