"""What other libraries say and nobody who runs the demo can act on, kept off its console: each thing by name."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging as transformers_logging

_LOGGERS = (
    "emoreg.vectors.belonging",  # that a tuned model is a fine-tune of its base is the demo's point
    "emoreg.tracking.alarm",  # what the demo shows, it shows in its table
    "bitsandbytes.backends.cpu.ops",  # peft imports it if it is there, and it misses a kernel for 4-bit models
)


@contextmanager
def quiet() -> Iterator[None]:
    """Without these messages while the context is open. Enter it before anything imports trl or peft."""
    if not torch.accelerator.is_available():
        # DeepSpeed is imported wherever it is installed; told what to compute on, it does not warn of having no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # of weights that are loaded in no time
    try:
        with warnings.catch_warnings():
            # peft asks transformers for it by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()
