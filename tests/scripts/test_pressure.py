"""Replies under pressure, by log-probability: batches do not matter, and a letter's taste cancels."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emoreg.corpus import pressure_replies
from tests import tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from evidence import pressure, readers, tone

ASKED = [("Do it now." * n, one) for n, one in enumerate(pressure_replies()[:4], start=1)]


@pytest.fixture(scope="module")
def model():
    return tiny.llama(max_position_embeddings=4096)


def test_a_batch_is_one_pair_at_a_time(model):
    together = pressure.by_letter(model, tiny.tokenizer(), ASKED)
    assert together == pytest.approx(pressure.by_letter(model, tiny.tokenizer(), ASKED, batch=1), abs=1e-5)


def test_exchanged_replies_change_the_sign_and_nothing_else(model):
    swapped = [(prompt, replace(one, shortcut=one.honest, honest=one.shortcut)) for prompt, one in ASKED]
    found, other = (pressure.by_letter(model, tiny.tokenizer(), asked) for asked in (ASKED, swapped))
    assert found == pytest.approx([-value for value in other], abs=1e-6)


def test_a_shared_prompt_is_each_reply_alone(model):
    tokenizer = tiny.tokenizer()
    asked = [("Do it now.", one) for one in pressure_replies()[:3]]
    per_token, total = [], []
    for prompt, one in asked:
        alone = []
        for text in (one.shortcut, one.honest):
            ((lead, reply),) = readers.encoded(tokenizer, [tone.Pair(prompt, text)])
            with torch.no_grad():
                logp = model(torch.tensor([lead + reply])).logits[0].log_softmax(-1)[len(lead) - 1 : -1]
            alone.append(logp.gather(1, torch.tensor(reply)[:, None]))
        per_token.append((alone[0].mean() - alone[1].mean()).item())
        total.append((alone[0].sum() - alone[1].sum()).item())
    found = pressure.by_reply(model, tokenizer, asked)
    assert found.per_token == pytest.approx(per_token, abs=1e-5)
    assert found.total == pytest.approx(total, abs=1e-3)


def test_exchanged_replies_change_the_sign_of_their_own_margins(model):
    asked = [("Do it now.", one) for one in pressure_replies()[:2]]
    swapped = [(prompt, replace(one, shortcut=one.honest, honest=one.shortcut)) for prompt, one in asked]
    found, other = (pressure.by_reply(model, tiny.tokenizer(), some) for some in (asked, swapped))
    assert found.per_token == pytest.approx([-value for value in other.per_token], abs=1e-6)
    assert found.total == pytest.approx([-value for value in other.total], abs=1e-4)


def test_an_effect_that_was_planted_is_found_and_its_power_is_said():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=72)
    found = pressure.effect(noise + 1.0, np.zeros(72))
    assert found.low < 1.0 < found.high
    assert found.low > 0
    assert 0.2 < found.seen < 1.2  # three pairs to a scenario, 24 scenarios: an se of about .12
    assert pressure.effect(noise, noise).mean == 0
