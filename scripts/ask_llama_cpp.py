"""Ask llama.cpp itself: its logits under an exported control vector, against `emoreg.model.blocks.steer`'s.

    pip install llama-cpp-python gguf    # builds llama.cpp; not among emoreg's requirements
    PYTHONPATH=. python scripts/ask_llama_cpp.py

A tiny Llama with random weights goes to a GGUF file, its vectors to another. llama.cpp adds them at one block, then at
all but the first.
"""

import dataclasses
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np
import torch
from transformers import LlamaForCausalLM

from emoreg import EmotionVectors
from emoreg.model import steer
from emoreg.vectors.formats import write_gguf
from tests import tiny
from tests.support import random_vectors
from tests.vectors.formats.foreign import as_llama_cpp

IDS = [1, *range(10, 40, 3)]
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_model(model: LlamaForCausalLM, path: Path) -> None:
    """The model without its tokenizer: token ids go in, logits come out."""
    config, weights = model.config, {name: w.numpy() for name, w in model.state_dict().items()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads or config.num_attention_heads}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(heads["attn_k"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for ours, theirs in NAMES.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            if theirs in heads:  # the two halves that rotate together lie side by side there
                halves = weight.reshape(heads[theirs], 2, -1, weight.shape[1])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_logits(path: Path, control: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """The last position's, with the buffer that `common_control_vector_load_one` makes: block 1's vector is first."""
    import llama_cpp  # pyright: ignore[reportMissingImports] - none of our requirements

    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_threads = 256, 1
    context = llama_cpp.llama_init_from_model(model, options)
    if control:
        last, width = max(control), len(next(iter(control.values())))
        buffer = np.zeros((last, width), np.float32)
        for layer, row in control.items():
            buffer[layer - 1] = row
        data = buffer.ctypes.data_as(llama_cpp.ctypes.POINTER(llama_cpp.ctypes.c_float))
        assert not llama_cpp.llama_set_adapter_cvec(context, data, buffer.size, width, 1, last)
    ids = (llama_cpp.llama_token * len(IDS))(*IDS)
    assert not llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(IDS)))
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(logits, (259,)).copy()


@torch.no_grad()
def our_logits(model: LlamaForCausalLM, vectors: EmotionVectors, layers: list[int]) -> np.ndarray:
    push_LD = vectors.directions[:, 1] * vectors.separation[:, 1, None]
    with steer(model, layers, push_LD[layers]) if layers else nullcontext():
        return model(torch.tensor([IDS])).logits[0, -1].numpy()


def main() -> None:
    model = tiny.llama().eval()
    vectors = dataclasses.replace(random_vectors(model), separation=torch.linspace(0.5, 1.5, 12).view(4, 3))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_model(model, path)
        exported = as_llama_cpp(write_gguf(vectors, "calm", Path(folder) / "calm").read_bytes())
        base = np.abs(llama_cpp_logits(path) - our_logits(model, vectors, [])).max()
        print(f"no direction: largest difference {base:.1e}")
        for layers in ([1], [2], [3], [1, 2, 3]):
            theirs = llama_cpp_logits(path, {layer: exported[layer] for layer in layers})
            same = np.abs(theirs - our_logits(model, vectors, layers)).max()
            one_off = np.abs(theirs - our_logits(model, vectors, [layer - 1 for layer in layers])).max()
            print(f"direction of blocks {layers}: largest difference {same:.1e}; one block earlier {one_off:.1e}")
            if not same < 1e-3 < one_off:
                sys.exit("llama.cpp and emoreg do not mean the same block")


if __name__ == "__main__":
    main()
