"""What a run does when something that it leans on goes away: the W&B server, or another rank."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.distributed import DistError
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

logger = logging.getLogger(__name__)

# How gloo and NCCL begin where they give no class of their own.
_TRANSPORTS = ("gloo", "nccl")


def offline_if_unreachable(setup: Callable) -> Callable:
    """`transformers.integrations.WandbCallback.setup`, but a server that does not answer costs no run.

    It is then logged offline, to be sent later by ``wandb sync``, and a warning says so. How long W&B tries before that
    is its own setting (``WANDB_INIT_TIMEOUT``, in seconds).
    """

    @wraps(setup)
    def online_or_offline(args: TrainingArguments, *rest: Any, **kwargs: Any) -> None:
        import wandb
        from wandb.errors import CommError

        try:
            setup(args, *rest, **kwargs)
        except CommError as error:
            logger.warning(
                "W&B cannot be reached (%s); training goes on, and its run is logged offline: send it by "
                "`wandb sync` of the folder that W&B names",
                str(error).partition("\n")[0],
            )
            wandb.init(project=os.getenv("WANDB_PROJECT", "huggingface"), name=args.run_name, mode="offline")
            setup(args, *rest, **kwargs)  # goes on with the run that there is

    return online_or_offline


@contextmanager
def naming_a_lost_rank(trainer: Trainer) -> Iterator[None]:
    """While the context is open, a collective that fails ends in an error that says where to look and how to go on.

    Raises:
        RuntimeError: from the collective's own.
    """
    try:
        yield
    except RuntimeError as error:
        of_ranks = isinstance(error, DistError) or any(name in str(error).lower() for name in _TRANSPORTS)
        if trainer.args.world_size == 1 or not of_ranks:
            raise
        said, folder = str(error).partition("\n")[0], trainer.args.output_dir
        checkpoint = get_last_checkpoint(folder) if folder is not None and os.path.isdir(folder) else None
        how = (
            "it has saved no checkpoint" if checkpoint is None else f"resume from {checkpoint} (resume_from_checkpoint)"
        )
        raise RuntimeError(
            f"rank {trainer.args.process_index} of {trainer.args.world_size} lost another rank at step "
            f"{trainer.state.global_step}, and the run cannot go on: {said}. The lost rank's own "
            f"output has the cause; {how}"
        ) from error
