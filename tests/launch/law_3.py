"""One rank's part of a run for law 3, to be started by a launcher: `law_3.py FOLDER`. It leaves FOLDER/rank<n>.pt."""

import socket
import sys
from pathlib import Path
from typing import Any

import torch

from emoreg import Band, Regularizer, RegularizerCallback, default_penalties
from tests import tiny
from tests.support import random_vectors, sft_trainer, uneven_rows


def train(folder: Path, per_device: int, accumulation: int) -> dict[str, Any]:
    """Six steps of 8 rows, of which the fifth is partial, with a hinge, an anchor and a band."""
    model = tiny.llama()
    torch.manual_seed(0)
    trainer = sft_trainer(
        model, tiny.tokenizer(), folder / "run", uneven_rows(36), max_steps=6, logging_steps=2, optim="sgd",
        lr_scheduler_type="constant", per_device_train_batch_size=per_device, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    penalties = [*default_penalties(hinge=0.5), Band("calm", weight=0.5, low=-0.5, high=0.5)]
    trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model), penalties)))
    trainer.train()
    logs = [{k: v for k, v in log.items() if k.startswith("emo")} for log in trainer.state.log_history]
    return {
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "logs": [log for log in logs if log],
        "rank": trainer.args.process_index,
        "host": socket.gethostname(),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    result = train(folder, per_device=1, accumulation=2)
    torch.save(result, folder / f"rank{result['rank']}.pt")
