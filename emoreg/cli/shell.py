"""What commands have in common: errors in one line, a process group, a model that is loaded.

torch and transformers take seconds to import: here and in the commands what runs brings them in, and help does not.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from tqdm import tqdm

show_traceback = False
"""Whether a user's mistake ends in a traceback."""


def one_line_errors(command: Callable) -> Callable:
    """A user's mistake ends in one line and exit code 2, unless the traceback is asked for."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            if show_traceback:
                raise
            # Not print: a progress bar may stand on the line.
            tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


def check_writable(path: Path) -> None:
    """Find out before the work, not after it.

    Raises:
        ValueError: if nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {path.parent} ({error.strerror}); choose another --output") from None


@contextmanager
def processes(device: str | None) -> Iterator[str]:
    """A process group of those that `accelerate launch` or `torchrun` has started, if any; gives this one's device."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    try:
        if state.num_processes > 1:
            yield str(state.device)
        else:
            yield device or ("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    except (ValueError, OSError):
        if state.is_main_process or show_traceback:
            raise
        raise typer.Exit(2) from None  # ranks fail together, and the first one says it
    finally:
        state.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    from emoreg import ranks

    return ranks.rank() == 0


def load(name: str, dtype: str, device: str, device_map: str | None):
    """A model: a causal one, or one of text and images where there is no other.

    Raises:
        ValueError: for an unknown dtype, or a device map on several ranks.
    """
    from torch import nn
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )
    from transformers.utils.logging import disable_progress_bar

    from emoreg import ranks

    if not is_first():
        disable_progress_bar()
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
    if device_map is not None and ranks.world() > 1:
        raise ValueError("--device-map is for one process; of several, each has the whole model on a device of its own")
    kind, config = AutoModelForCausalLM, type(AutoConfig.from_pretrained(name))
    if config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and config not in MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = AutoModelForImageTextToText
    model = kind.from_pretrained(name, dtype=dtype, device_map=device_map)
    if device_map is None:
        model = nn.Module.to(model, device)
    return model


def load_tokenizer(name: str):
    """A tokenizer alone."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)
