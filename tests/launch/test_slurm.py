"""`scripts/slurm/train.sbatch` where Slurm's commands are small scripts that do on this machine what they would do."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from recipes import sft
from tests.launch.machines import ENVIRONMENT, ROOT, together

SBATCH = ROOT / "scripts/slurm/train.sbatch"
TWO_TASKS = 'SLURM_NODEID=1 "${@:2}" & SLURM_NODEID=0 "${@:2}" & wait -n && wait -n'


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function: what `srun` and `scontrol` do to the environment of a job on two machines of one GPU, in a folder."""

    def environment(srun: str, scontrol: str = "echo localhost; echo other") -> dict[str, str]:
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, does in {"srun": srun, "scontrol": scontrol}.items():
            (commands / name).write_text(f"#!/usr/bin/env bash\n{does}\n")
            (commands / name).chmod(0o755)
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        return {
            "PATH": f"{commands}:{ENVIRONMENT['PATH']}",
            "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "emoreg", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "localhost,other", "SLURM_GPUS_ON_NODE": "1",
        }  # fmt: skip

    return environment


def contrasts(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [log["emotion/desperate/contrast"] for log in history if "emotion/desperate/contrast" in log]


@pytest.mark.slow
def test_a_requeued_job_trains_on_two_machines_from_its_last_whole_checkpoint(job, config, tmp_path):
    run = Path(f"runs/emoreg-{os.getpid()}")
    sft.main(["--config", str(config), "--output_dir", str(run), "--max_steps", "10"])
    (run / "checkpoint-11").mkdir()  # broken off
    recipe = [ROOT / "recipes/sft.py", "--config", config, "--max_steps", "11"]
    together([SBATCH, *recipe], folder=tmp_path, **job(TWO_TASKS))
    *before, _ = contrasts(run / "checkpoint-11")
    assert before == contrasts(run / "checkpoint-10")
    assert len(list((run / "checkpoint-11").glob("rng_state_*.pth"))) == 2


def test_the_commands_of_a_job_that_is_new(job, tmp_path):
    environment = job('SLURM_NODEID=1; export SLURM_NODEID; "${@:2}"') | {"LAUNCH": "zero3.yaml"}
    (tmp_path / "bin" / "accelerate").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    (tmp_path / "bin" / "accelerate").chmod(0o755)
    (said,) = together([SBATCH, "recipe.py", "--prompt", "two words"], folder=tmp_path, **environment)
    assert said.splitlines() == [
        "launch", "--machine_rank", "1",
        "--config_file", "zero3.yaml", "--num_machines", "2", "--num_processes", "2",
        "--main_process_ip", "localhost", "--main_process_port", str(20000 + os.getpid() % 10000),
        "recipe.py", "--prompt", "two words", "--output_dir", f"runs/emoreg-{os.getpid()}",
    ]  # fmt: skip


def test_it_is_requeued_before_its_time_is_up(job, tmp_path):
    environment = ENVIRONMENT | job("touch started; sleep 60", 'echo "$@" >>said; echo localhost')
    process = subprocess.Popen([SBATCH, "recipe.py"], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None, "the job ended before it had started"
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        process.wait(10)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # what it started, too
    assert (tmp_path / "said").read_text().splitlines()[-1] == f"requeue {os.getpid()}"


def test_a_machine_that_fails_fails_the_job(job, tmp_path):
    with pytest.raises(AssertionError, match="exit code 3"):
        together([SBATCH, "recipe.py"], folder=tmp_path, **job("exit 3"))
