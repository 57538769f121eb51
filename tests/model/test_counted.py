"""Which passes count: those that train, with the adapters of the start; or those of an evaluation."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from emoreg.model import CountedPasses


@pytest.fixture
def adapted(tiny_llama):
    return get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))


@pytest.mark.parametrize(
    ("mode", "under_grad", "without"), [("train", True, False), ("eval", False, True), ("off", False, False)]
)
def test_grad_mode_tells_training_from_evaluation(tiny_llama, mode, under_grad, without):
    counted = CountedPasses(tiny_llama())
    with counted.during(mode):
        assert counted() is under_grad
        with torch.no_grad():
            assert counted() is without


def test_a_pass_with_the_adapter_off_is_the_reference(adapted):
    counted = CountedPasses(adapted)
    assert counted()
    with adapted.disable_adapter():
        assert not counted()
    assert counted()


def test_a_pass_with_another_adapter_is_the_reference(adapted):
    adapted.add_adapter("reference", LoraConfig(r=2, target_modules=["q_proj"]))
    counted = CountedPasses(adapted)
    adapted.set_adapter("reference")
    assert not counted()


def test_the_mode_comes_back_after_an_error(tiny_llama):
    counted = CountedPasses(tiny_llama())
    with pytest.raises(RuntimeError), counted.during("off"):
        raise RuntimeError
    assert counted()
