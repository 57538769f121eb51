"""The hook site: which tensor it is, and that nothing stays behind."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from emoreg.model.blocks import backbone, decoder_blocks
from emoreg.model.hooks import hook_blocks, steer
from emoreg.model.passes import evaluating, run_to


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


@pytest.fixture
def model(tiny_llama):
    return tiny_llama().eval()


IDS = torch.arange(4, 16).view(2, 6)


def test_layers_are_the_next_hidden_states_and_the_last_is_before_the_norm(model):
    seen = {}
    with hook_blocks(model, range(4), lambda layer, h: seen.update({layer: h})), torch.no_grad():
        states = model(IDS, output_hidden_states=True).hidden_states
    for layer in range(3):
        assert torch.equal(seen[layer], states[layer + 1])
    assert not torch.allclose(seen[3], states[4])
    torch.testing.assert_close(model.model.norm(seen[3]), states[4])


def test_blocks_are_found_inside_adapters_and_compile(model):
    blocks = decoder_blocks(model)
    assert decoder_blocks(torch.compile(model)) is blocks
    wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    assert decoder_blocks(wrapped) is blocks
    assert backbone(wrapped) is model.model


def test_a_list_of_experts_as_long_as_the_decoder_is_no_rival(model):
    decoder_blocks(model)[1].experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(4))
    assert decoder_blocks(model) is model.model.layers


def test_two_lists_of_blocks_are_ambiguous(model):
    model.model.others = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(4))
    with pytest.raises(ValueError, match="expected one list of 4 decoder blocks in LlamaForCausalLM, found 2"):
        decoder_blocks(model)


def test_no_transformers_model():
    with pytest.raises(ValueError, match="expected a transformers causal language model, got Linear"):
        decoder_blocks(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(("layers", "message"), [([4], "layer 4 is out of range"), ([-1], "layer -1 is out of range"),
                                                 ([1, 1], "distinct"), ([], "one or more")])  # fmt: skip
def test_impossible_layers_leave_no_hook(model, layers, message):
    with pytest.raises(ValueError, match=message), hook_blocks(model, layers, lambda *_: None):
        pass
    assert hooks(model) == 0


def test_an_error_inside_leaves_no_hook(model):
    with pytest.raises(RuntimeError), hook_blocks(model, [0], lambda *_: None):
        raise RuntimeError
    assert hooks(model) == 0


def test_run_to_stops_after_the_last_layer_asked_for(model):
    ran = []
    for i, block in enumerate(decoder_blocks(model)):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    run_to(model, [0, 2], lambda *_: None, input_ids=IDS)
    assert ran == [0, 1, 2]
    assert hooks(model) == 0


def test_steering_moves_every_position_of_its_layers_and_then_no_more(model):
    push = torch.randn(2, 32)
    before = {}
    with hook_blocks(model, [1, 3], lambda layer, h: before.update({layer: h})), torch.no_grad():
        plain = model(IDS).logits
    after = {}
    with steer(model, [1, 3], push), torch.no_grad():
        # The outputs after steering are seen one block on, where they come in.
        decoder_blocks(model)[2].register_forward_pre_hook(lambda m, args: after.update({1: args[0]}))
        model.model.norm.register_forward_pre_hook(lambda m, args: after.update({3: args[0]}))
        steered = model(IDS).logits
    torch.testing.assert_close(after[1], before[1] + push[0])
    assert not torch.allclose(steered, plain)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain)


def test_evaluating_gives_each_module_its_own_mode_back(model):
    model.train()
    frozen = decoder_blocks(model)[2]
    frozen.eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    assert [m.training for m in model.modules()] == before
