"""What every test runs under: shapes checked, no network, fixed seeds and threads."""

import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

# Until the first test, since imports leave nothing to collect.
gc.disable()

# Before anything imports these libraries.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that tests start

import jaxtyping

# Every annotation in emoreg, shapes included, is a check while tests run. Before emoreg is first imported.
jaxtyping.install_import_hook("emoreg", "beartype.beartype")

import datasets
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One thread: the order of sums is fixed, and at these sizes a second one only costs."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_fingerprints() -> None:
    """No test goes back to what it mapped, so what maps, for A2PO a whole trainer, need not be hashed."""

    def random_one(*args: object) -> str:
        return datasets.fingerprint.generate_random_fingerprint()

    datasets.fingerprint.update_fingerprint = random_one
    datasets.arrow_dataset.update_fingerprint = random_one


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports() -> None:
    """What stands when a module's tests begin, most of it libraries, is no garbage: the collector need not look at it.

    accelerate collects at the end of each `Trainer.train`, which took longer than the training of a tiny model.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts from the same seeds, in a folder of its own: no run leaves files in the repository."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_wandb_left() -> Iterator[None]:
    """A run that a test left open must not swallow the next test's metrics."""
    yield
    import wandb

    if wandb.run is not None:
        wandb.finish()


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """A factory: ``tiny_llama(seed=0, **config)`` is a fresh model of 4 blocks and width 32 (`tests.tiny.llama`)."""
    return tiny.llama


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A fresh byte-level tokenizer with pad, BOS, EOS and a chat template (`tests.tiny.tokenizer`)."""
    return tiny.tokenizer()
