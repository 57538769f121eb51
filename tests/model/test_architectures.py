"""The hook site on many architectures: each block's own output, found without being told where the blocks are.

What is compared with is independent of emoreg: hooks placed by hand on the dotted path that `tests.model.architectures`
gives for each family, what the next block takes in, and transformers' own ``hidden_states``.
"""

from contextlib import ExitStack
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import ModuleList
from transformers import AutoConfig, AutoModelForSeq2SeqLM
from transformers.utils import ModelOutput

from emoreg.corpus import LabelledText
from emoreg.extraction import extract
from emoreg.extraction.tokens import tokenise
from emoreg.model.blocks import backbone, decoder_blocks, depth, width
from emoreg.model.hooks import hook_blocks, steer
from emoreg.model.passes import run_to
from emoreg.model.sharded import embeddings, input_device
from emoreg.reading.projection import project
from tests.model.architectures import BLOCKS, FAMILIES, HEADS, IDS, VISION, build, fresh

EVERY = range(BLOCKS)
INPUTS = {"input_ids": torch.arange(4, 16).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
DIRECTIONS = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
TOWERS = [name for name, family in FAMILIES.items() if family.vision]


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def read_by_hand(model, blocks, **inputs):
    """What each block gives, what each takes in, and transformers' hidden states, by hooks on a dotted path."""
    outputs, taken = [], []

    def take(_module, args, kwargs):
        taken.append(args[0] if args else kwargs["hidden_states"])

    def give(_module, _args, output):
        outputs.append(output if torch.is_tensor(output) else output[0])

    with ExitStack() as stack, torch.no_grad():
        for block in model.get_submodule(blocks):
            stack.callback(block.register_forward_pre_hook(take, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(give).remove)
        states = model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    return outputs, taken, states


def read_to(model, **inputs):
    """Hidden states at every layer, as extraction has them: through the backbone alone."""
    found = []
    run_to(model, EVERY, lambda _, hidden: found.append(hidden), **inputs)
    return found


def test_blocks_and_width(name):
    model = build(name)
    assert decoder_blocks(model) is model.get_submodule(FAMILIES[name].blocks)
    assert (depth(model), width(model)) == (BLOCKS, 16)
    assert embeddings(model).num_embeddings >= 259
    assert input_device(model).type == "cpu"


def test_every_layer_is_what_its_block_gives_and_the_next_one_takes(name):
    model, seen = build(name), {}
    outputs, taken, states = read_by_hand(model, FAMILIES[name].blocks, **INPUTS)
    with torch.no_grad(), hook_blocks(model, EVERY, lambda layer, hidden: seen.update({layer: hidden})):
        model(**INPUTS, use_cache=False)
    for layer in EVERY:
        assert torch.equal(project(seen[layer], DIRECTIONS, 0)[1], project(outputs[layer], DIRECTIONS, 0)[1])
    for layer in EVERY[:-1]:
        assert torch.equal(seen[layer], taken[layer + 1])
        assert torch.equal(seen[layer], states[layer + FAMILIES[name].next_state])
        assert not torch.equal(seen[layer], seen[layer + 1])


def test_the_backbone_alone_gives_the_same_and_never_runs_the_head(name):
    model, ran = build(name), []
    outputs, _, _ = read_by_hand(model, FAMILIES[name].blocks, **INPUTS)
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: ran.append("head"))
    found = read_to(model, **INPUTS)
    with torch.no_grad():
        whole = backbone(model)(**INPUTS, use_cache=False)
    handle.remove()
    torch.testing.assert_close(found, outputs, rtol=0, atol=0)
    assert whole[0].shape[:2] == (2, 6)
    assert not ran


def test_padding_on_the_right_changes_nothing(name):
    check_padding(name, "right")


# The others count their positions, or run their state, from the first column.
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.left])
def test_padding_on_the_left_changes_nothing(name):
    check_padding(name, "left")


def check_padding(name, side):
    model, ids = build(name), INPUTS["input_ids"][:1]
    pad = torch.zeros(1, 3, dtype=torch.long)
    parts = [pad, ids] if side == "left" else [ids, pad]
    mask = torch.cat([torch.full_like(part, part is ids) for part in parts], 1)
    padded = read_to(model, input_ids=torch.cat(parts, 1), attention_mask=mask)
    for state, bare in zip(padded, read_to(model, input_ids=ids, attention_mask=torch.ones_like(ids)), strict=True):
        torch.testing.assert_close(state[mask.bool()], bare[0], rtol=1e-4, atol=1e-5)


def test_a_block_too_few_is_refused_also_beside_a_vision_tower_of_the_right_depth(name):
    model = deepcopy(build(name))
    del model.get_submodule(FAMILIES[name].blocks)[-1]
    with pytest.raises(
        ValueError,
        match=rf"expected one list of \d decoder blocks .* found 0 \(.*{FAMILIES[name].blocks} of 2",
    ):
        decoder_blocks(model)


class TestVisionLanguage:
    @pytest.mark.parametrize("name", TOWERS)
    def test_the_vision_tower_is_as_deep_and_is_left_alone(self, name):
        model, ran = build(name), []
        tower = model.get_submodule(FAMILIES[name].vision)
        assert any(isinstance(m, ModuleList) and len(m) == BLOCKS for m in tower.modules())
        handle = tower.register_forward_hook(lambda *_: ran.append("vision"))
        read_to(model, **INPUTS)
        handle.remove()
        assert not ran

    @pytest.mark.parametrize("name", ["llava", "gemma3", "llama", "mixtral", "mamba"])
    def test_under_lora(self, name):
        model = deepcopy(build(name))
        blocks = model.get_submodule(FAMILIES[name].blocks)
        wrapped = get_peft_model(model, LoraConfig(target_modules=["in_proj"] if name == "mamba" else ["q_proj"]))
        assert decoder_blocks(wrapped) is blocks
        assert decoder_blocks(torch.compile(wrapped)) is blocks
        # By hand in the model that now has the adapters: without, some CPUs round Mamba's convolution otherwise.
        outputs, _, _ = read_by_hand(model, FAMILIES[name].blocks, **INPUTS)
        torch.testing.assert_close(read_to(wrapped, **INPUTS), outputs, rtol=0, atol=0)

    def test_a_second_list_in_the_text_tower_is_ambiguous_and_both_are_named(self):
        model = deepcopy(build("llava"))
        model.model.language_model.more = ModuleList(torch.nn.Linear(2, 2) for _ in EVERY)
        both = r"found 2 \(model.language_model.layers of 3, model.language_model.more of 3\)"
        with pytest.raises(ValueError, match=both):
            decoder_blocks(model)

    def test_blocks_that_only_images_reach_are_named(self):
        text = HEADS | {"cross_attention_layers": [1]}
        model = fresh("mllama", text_config=text, vision_config=VISION | {"num_global_layers": 1})
        with pytest.raises(
            ValueError, match=r"expected blocks \[0, 1, 2\] to run once each and in order, got \[0, 2\]"
        ):
            read_to(model, **INPUTS)
        run_to(model, [0, 2], lambda *_: None, **INPUTS)


class TestRefused:
    @pytest.mark.parametrize("name", ["t5", "bart"])
    def test_encoder_decoders(self, name):
        sizes = {"d_model": 16, "num_layers": 1, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 16, "d_kv": 8}
        heads = {"num_heads": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(name, **IDS, **sizes, **heads))
        with pytest.raises(ValueError, match="expected a decoder-only language model, got .*ForConditionalGeneration"):
            decoder_blocks(model)

    def test_several_streams_at_a_time(self):
        """Gemma 3n's AltUp keeps four (4, B, T, D), of which no one is the residual stream."""
        altup = {
            "num_hidden_layers": 4,
            "layer_types": ["full_attention"] * 4,
            "intermediate_size": [24] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": 259,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
        }
        with pytest.raises(ValueError, match=r"block 0 gave a tensor of shape \(4, 2, 6, 16\).* one residual stream"):
            read_to(fresh("gemma3n_text", **HEADS | altup), **INPUTS)

    def test_positions_before_texts(self):
        model = fresh("xlnet", **IDS, d_model=16, n_layer=BLOCKS, n_head=2, d_inner=16)
        with pytest.raises(ValueError, match=r"block 0 gave a tensor of shape \(6, 2, 16\) for 2 texts of 6 tokens"):
            read_to(model, **INPUTS)

    def test_other_units_in_evaluation_than_in_training(self):
        settings = FAMILIES["rwkv"].settings
        with pytest.raises(ValueError, match="halves its residual stream after every 2 blocks.*rescale_every = 0"):
            decoder_blocks(fresh("rwkv", **settings, rescale_every=2))
        assert len(decoder_blocks(fresh("rwkv", **settings, rescale_every=0))) == BLOCKS

    @pytest.mark.parametrize(("name", "settings"), [
        ("bert", FAMILIES["bert"].settings | {"is_decoder": False}),
        ("paligemma", {"text_config": HEADS | {"model_type": "gemma"}, "projection_dim": 16,
                       "vision_config": VISION | {"model_type": "siglip_vision_model"}}),
    ])  # fmt: skip
    def test_tokens_that_see_later_ones(self, name, settings):
        with pytest.raises(ValueError, match="expected a causal language model, got .* in which tokens see later ones"):
            decoder_blocks(fresh(name, **settings))

    def test_a_block_that_gives_no_tensor_first(self):
        model = deepcopy(build("llama"))
        model.model.layers[1].register_forward_hook(lambda *args: ModelOutput(last_hidden_state=args[-1]))
        with pytest.raises(ValueError, match="block 1 gave a ModelOutput, expected a tensor"):
            read_to(model, **INPUTS)

    def test_a_config_without_a_depth(self):
        model = deepcopy(build("llama"))
        model.config.attribute_map = {"num_hidden_layers": "no_such_name"}
        with pytest.raises(
            ValueError, match="the config of LlamaForCausalLM has none of num_hidden_layers, num_layers"
        ):
            decoder_blocks(model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "openai-gpt", "falcon", "mamba"])
def test_steering_reaches_the_next_block_whatever_a_block_returns(name):
    model, taken = build(name), []
    plain = read_by_hand(model, FAMILIES[name].blocks, **INPUTS)[1][1]
    with steer(model, [0], torch.ones(1, 16)):
        taken = read_by_hand(model, FAMILIES[name].blocks, **INPUTS)[1][1]
    torch.testing.assert_close(taken, plain + 1)


@pytest.mark.parametrize(("name", "longest"), [("llama", 128), ("gpt2", 128), ("mpt", 128), ("mamba", 200)])
def test_texts_are_cut_to_the_context_under_whatever_name(name, longest, tiny_tokenizer):
    [text] = tokenise(build(name), tiny_tokenizer, ["x" * 200])
    assert len(text) == longest


@pytest.mark.parametrize("name", ["gemma3", "mixtral", "mamba"])
def test_extraction_end_to_end(name, tiny_tokenizer):
    model = build(name)
    corpus = [
        LabelledText(f"{word} {n} times over", emotion)
        for emotion, word in (("calm", "so"), ("afraid", "oh"))
        for n in range(3)
    ]
    neutral = [f"number {n} is a number" for n in range(4)]
    vectors = extract(model, tiny_tokenizer, corpus, neutral, from_token=1, denoise_share=0.0, progress=False)
    assert vectors.directions.shape == (BLOCKS, 2, 16)
    vectors.check(model)
    sums = {}
    for item in corpus:
        ids = tiny_tokenizer(item.text, return_tensors="pt")["input_ids"]
        states = read_by_hand(model, FAMILIES[name].blocks, input_ids=ids)[0]
        sums[item.emotion] = sums.get(item.emotion, 0) + torch.stack([state[0, 1:].mean(0) for state in states])
    expected = torch.nn.functional.normalize(sums["calm"] - sums["afraid"], dim=-1)
    torch.testing.assert_close(vectors.directions[:, 0], expected, rtol=1e-3, atol=1e-4)
