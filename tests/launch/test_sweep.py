"""The W&B sweep: what W&B's own agent starts for each of its runs, read by the recipe that it starts."""

import itertools
import os
from pathlib import Path

import pytest
import yaml
from transformers.integrations.integration_utils import rewrite_logs
from wandb.wandb_agent import Agent

from emoreg.training.config import RegularizerConfig
from recipes import sft
from tests.launch.machines import ROOT

SWEEP = yaml.safe_load((ROOT / "configs/sweep/sft.yaml").read_text())
NAMES = [*SWEEP["parameters"]]
GRID = list(itertools.product(*(parameter["values"] for parameter in SWEEP["parameters"].values())))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function: a run's name and parameters to the words that `accelerate` gets from W&B's agent."""
    accelerate = tmp_path / "bin" / "accelerate"
    accelerate.parent.mkdir()
    accelerate.write_text("""#!/bin/sh\nfor word; do echo "$word"; done >"$WANDB_RUN_ID"\n""")
    accelerate.chmod(0o755)
    monkeypatch.setenv("PATH", f"{accelerate.parent}:{os.environ['PATH']}")
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, str(tmp_path))  # the agent sets them for good
    agent = Agent(api=None, queue=None, sweep_id="sweep")
    agent._sweep_command = [*SWEEP["command"]]

    def words(run: str, point: tuple) -> list[str]:
        args = {name: {"value": value} for name, value in zip(NAMES, point, strict=True)}
        said = agent._process_command({"type": "run", "run_id": run, "program": SWEEP["program"], "args": args})
        assert "exception" not in said
        assert agent._run_processes[run].wait() == 0
        return (tmp_path / run).read_text().splitlines()

    return words


def test_each_run_is_its_point_of_the_grid(start, monkeypatch):
    assert len(GRID) == 27
    layers = {"0-27": [*range(28)], "7-20": [*range(7, 21)], "14-27": [*range(14, 28)]}
    found = []

    def keep(config, model):
        found.append((config.hinge_weight, config.hinge_threshold, config.emotion_layers))
        raise InterruptedError

    monkeypatch.setattr(RegularizerConfig, "build", keep)
    for number, point in enumerate(GRID):
        launch, program, *arguments = start(f"run{number}", point)
        assert (launch, program) == ("launch", "recipes/sft.py")
        assert arguments[-2:] == ["--output_dir", f"runs/sweep/run{number}"]
        with monkeypatch.context() as there, pytest.raises(InterruptedError):
            there.chdir(ROOT)
            sft.main([*arguments, "--use_cpu"])
    assert found == [(weight, threshold, layers[said]) for weight, threshold, said in GRID]


def test_a_run_logs_the_metric(start, config, tmp_path):
    data = tmp_path / "data"
    (data / "test.jsonl").write_text((data / "train.jsonl").read_text())
    _, _, *arguments = start("run", (0.1, 0.0, "1-3"))
    arguments[arguments.index("configs/sft.yaml")] = str(config)
    trainer = sft.main([*arguments, "--max_steps", "-1", "--num_train_epochs", "1"])
    logged = {name for log in trainer.state.log_history for name in rewrite_logs(log)}
    assert {SWEEP["metric"]["name"], "eval/loss"} <= logged
