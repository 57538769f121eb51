"""The demo on a short leash, as a user without a W&B account starts it: what it prints and leaves behind."""

import os
import re
import subprocess
import sys

import pytest

from emoreg import EmotionVectors
from emoreg.sandbox.organism import load
from tests.tracking import wandb_file

PROGRAM = "from pathlib import Path; from emoreg.sandbox import run_demo; run_demo(Path('out'), steps=12, replies=20)"


def test_what_the_demo_prints_and_leaves_behind(tmp_path):
    (tmp_path / "out").mkdir()
    # No account and no mode, whatever the machine that this runs on has.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "COLUMNS": "140"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing that nobody can act on"
    stages = [line for line in done.stdout.splitlines() if re.match(r"\d\. ", line)]
    assert [line[:2] for line in stages] == ["1.", "2.", "3.", "4.", "5.", "6."]
    assert all(re.search(r"\(\d+ s\)$", line) for line in stages)
    rows = [
        line.split() for line in done.stdout.splitlines() if line.split()[:1] in (["base"], ["plain"], ["regularised"])
    ]
    assert [row[0] for row in rows] == ["base", "plain", "regularised"]
    for row in rows:
        assert len(row) == 11  # contrast, three rates with an interval each, three figures
        assert sum(int(row[n]) for n in (2, 4, 6)) == pytest.approx(100, abs=2)

    folder = tmp_path / "out"
    EmotionVectors.load(folder / "sandbox").check(load()[0])
    assert (folder / "z_over_steps.png").read_bytes().startswith(b"\x89PNG")

    runs = [wandb_file.read(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
    assert len(runs) == 2
    for run, penalised in zip(runs, (False, True), strict=True):
        names = {name for row in run.history for name in row}
        assert {"train/emotion/desperate/mean", "train/emotion/calm/layer_0/p95", "train/loss"} <= names
        assert ("train/emoreg/hinge/desperate/penalty" in names) == penalised
    assert any("z_over_steps" in name for row in runs[1].history for name in row)
