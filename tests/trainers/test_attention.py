"""The term under each implementation of attention that a CPU has."""

import pytest
import torch

from emoreg import Anchor, Hinge, Regularizer, RegularizerCallback
from tests.support import KeepGradients, random_vectors, sft_trainer


def one_step(model, tokenizer, folder) -> tuple[dict, dict]:
    """The gradients and the log of a step of SFT under the default kind of penalties."""
    trainer = sft_trainer(model, tokenizer, folder, max_steps=1, max_grad_norm=0.0)
    keep = KeepGradients()
    trainer.add_callback(keep)
    penalties = [Hinge("desperate", weight=0.5, threshold=-0.5), Anchor("desperate", weight=0.3)]
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), penalties)))
    trainer.train()
    return keep.gradients, trainer.state.log_history[0]


def test_sdpa_and_eager_are_alike(tiny_llama, tiny_tokenizer, tmp_path):
    found = {}
    for name in ("sdpa", "eager"):
        model = tiny_llama(attn_implementation=name)
        assert model.config._attn_implementation == name
        found[name] = one_step(model, tiny_tokenizer, tmp_path)
    (gradients, log), (others, other_log) = found.values()
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6)
    figures = {name: value for name, value in log.items() if name.startswith(("emotion/", "emoreg/"))}
    assert figures["emotion/desperate/contrast"] != 0
    assert figures["emoreg/term"] > 0, "the term is in the gradients that were compared"
    assert {name: other_log[name] for name in figures} == pytest.approx(figures, rel=1e-4, abs=1e-5)
