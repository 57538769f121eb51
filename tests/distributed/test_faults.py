"""What goes away in a run of many: another rank, or the W&B server."""

import os
import signal
from pathlib import Path

import pytest
import wandb
from transformers import TrainerCallback

from emoreg import Regularizer, RegularizerCallback, Target
from tests.distributed.law_3 import train
from tests.distributed.processes import run
from tests.invariants.test_law_3 import apart
from tests.support import random_vectors, sft_trainer
from tests.tracking import wandb_file


class Die(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def work(rank, folder, engine, dies, resume):
    """All ranks in one folder, saving at step 3; at step 4 the second may be killed."""
    options = {"save_strategy": "steps", "save_steps": 3, "target": Target("desperate", above_base=-0.2)}
    callbacks = [Die()] if dies and rank == 1 else []
    return train(
        rank,
        folder.parent / "run",
        "SFT",
        (2, 2),
        engine,
        resume=resume,
        callbacks=callbacks,
        ddp_timeout=30,
        **options,
    )


@pytest.mark.parametrize("engine", ["DDP", "FSDP2", "ZeRO-3"])
def test_when_a_rank_is_killed_the_other_stops_and_the_run_resumes(engine, tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    unbroken.mkdir()
    killed.mkdir()
    whole = run(2, work, unbroken, engine, False, None)
    with pytest.raises(RuntimeError, match="rank 0 of 2 lost another rank at step 4") as caught:
        run(2, work, killed, engine, True, None, timeout=60)
    assert f"resume from {killed}/run/checkpoint-3" in str(caught.value)
    for error in killed.glob("error*"):
        error.unlink()
    resumed = run(2, work, killed, engine, False, str(killed / "run" / "checkpoint-3"))
    assert apart(resumed[0]["weights"], whole[0]["weights"]) == 0.0
    assert resumed[0]["logs"] == whole[0]["logs"]


class TestAServerThatDoesNotAnswer:
    @pytest.fixture(autouse=True)
    def _unreachable(self, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the port for what is thrown away: none listens
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
        wandb.teardown()  # it keeps the settings of its first run
        yield
        wandb.teardown()

    def test_costs_no_run(self, tiny_llama, tiny_tokenizer, tmp_path, caplog):
        model = tiny_llama()
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path, report_to=["wandb"], run_name="named")
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model))))
        trainer.train()
        wandb.finish()
        assert "W&B cannot be reached" in caplog.text
        (folder,) = Path("wandb").glob("offline-run-*")
        kept = wandb_file.read(folder)
        logged = [log["emotion/desperate/mean"] for log in trainer.state.log_history if "emotion/desperate/mean" in log]
        assert kept.column("train/emotion/desperate/mean") == logged != []
        reporter = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "WandbCallback")
        assert "setup" not in vars(reporter)
