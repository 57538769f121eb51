"""Rows that reference text takes its format from, in every trainer."""

import logging
import random
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from emoreg import Regularizer, RegularizerCallback, default_penalties
from emoreg.reading import leads, rows_of
from emoreg.reading.matched import OWN, TEXTS
from emoreg.training.rows import COUNT, _random_state_kept, some_rows, tokenizer_of
from tests.support import random_vectors, sft_trainer, uneven_rows
from tests.trainers.cases import CASES, GOOD, PROMPTS

GENERATING = {"GRPO", "RLOO", "Distillation", "SDFT", "SDPO", "GMPO", "A2PO"}
PRETOKENISED = {"SFT", "Trainer"}


@pytest.mark.parametrize("name", CASES)
def test_every_trainers_rows_are_its_prompts_and_what_it_trains_on(name, tmp_path):
    trainer = CASES[name].trainer(CASES[name].model(), tmp_path)
    rows, tokenizer = rows_of(some_rows(trainer)), tokenizer_of(trainer)
    assert tokenizer is not None
    lead = tokenizer.decode(leads(rows, tokenizer, 64)[0])
    counted = tokenizer.decode([i for i, counts in zip(rows[0].ids, rows[0].counted(), strict=True) if counts])
    if name in PRETOKENISED:
        first: Any = trainer.train_dataset[0]  # pyright: ignore[reportOptionalSubscript]
        return_to = first.get("labels") or [
            i if inside else -100 for i, inside in zip(first["input_ids"], first["completion_mask"], strict=True)
        ]
        assert counted == tokenizer.decode([i for i in return_to if i != -100])
    elif name in GENERATING:
        assert (lead, counted) == (PROMPTS[0], "")
    elif name == "Reward":  # a reward is of the whole text
        assert (lead, counted) == ("", (PROMPTS[0] + GOOD[0])[1:] + "<eos>")
    else:
        assert PROMPTS[0] in lead
        assert counted == GOOD[0] + "<eos>"


@pytest.mark.parametrize("name", CASES)
def test_in_every_trainer_reference_text_has_their_format(name, tmp_path, caplog):
    model = CASES[name].model()
    trainer = CASES[name].trainer(model, tmp_path)
    callback = RegularizerCallback(trainer, Regularizer(random_vectors(model), default_penalties()))
    trainer.add_callback(callback)
    found = []
    trainer.accelerator.backward = lambda loss, **kwargs: found.append(callback._term.reference.text)
    with caplog.at_level(logging.WARNING, logger="emoreg"):
        trainer.train()
    assert not [one for one in caplog.records if "reference text" in one.getMessage()]
    assert len(found[0].ids) == TEXTS + (0 if name in GENERATING else OWN)


def test_neither_the_random_state_nor_the_rows_are_touched(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path)
    rows = trainer.train_dataset.to_list()

    class Drawing(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, n):
            assert [torch.rand(()), np.random.rand(), random.random()]
            return rows[n]

    trainer.train_dataset = Drawing()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    some_rows(trainer)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    # Python's own by itself: beartype, which checks calls in tests, draws from it.
    state = random.getstate()
    with _random_state_kept():
        random.random()
    assert random.getstate() == state


def test_a_stream_that_can_be_read_once_is_left_alone(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path)

    class Once(torch.utils.data.IterableDataset):
        def __iter__(self):
            raise AssertionError("read")

    trainer.train_dataset = Once()
    with pytest.raises(ValueError, match="read only once"):
        some_rows(trainer)


def test_they_are_spread_over_the_data(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, uneven_rows(4 * COUNT))
    ids = [row["input_ids"][0].tolist() for row in some_rows(trainer)]
    rows = trainer.train_dataset
    assert rows is not None
    assert ids == [rows[4 * n]["input_ids"] for n in range(COUNT)]


def test_of_a_stream_they_are_the_first_and_the_run_still_sees_them(tiny_llama, tiny_tokenizer, tmp_path):
    stream = uneven_rows(24).to_iterable_dataset()
    trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, stream)
    ids = [row["input_ids"][0].tolist() for row in some_rows(trainer)]
    assert ids == [row["input_ids"] for row in uneven_rows(24)][:COUNT]
    assert len(next(iter(trainer.get_train_dataloader()))["input_ids"]) == 2


def test_rows_that_nobody_can_read_leave_the_files_text_with_a_word(tiny_llama, tiny_tokenizer, tmp_path, caplog):
    model = tiny_llama()
    trainer = sft_trainer(model, tiny_tokenizer, tmp_path)

    class Broken(Dataset):
        def __getitem__(self, key):
            raise RuntimeError("a disk is gone") if isinstance(key, int) else AssertionError

    vectors = random_vectors(model)
    callback = RegularizerCallback(trainer, Regularizer(vectors, default_penalties()))
    trainer.add_callback(callback)
    held = []
    callback.on_step_begin = lambda *args, **kwargs: held.append(callback._term.reference.text)
    original = trainer.train_dataset
    trainer.train_dataset = Broken(original.data)
    trainer.get_train_dataloader = lambda: sft_trainer(
        tiny_llama(), tiny_tokenizer, tmp_path, original
    ).get_train_dataloader()
    with caplog.at_level(logging.WARNING, logger="emoreg"):
        trainer.train()
    assert "RuntimeError: a disk is gone" in caplog.text
    assert torch.equal(held[0].ids, vectors.reference_ids)
