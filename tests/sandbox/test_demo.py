"""The demo on a short leash: everything that it leaves behind is there and holds the metrics."""

import pytest
import wandb

from emoreg import EmotionVectors
from emoreg.sandbox import demo
from emoreg.sandbox.organism import load
from tests import wandb_file


@pytest.fixture
def ran(tmp_path, capsys):
    judgements = demo.run(tmp_path, steps=12, replies=20)
    return judgements, capsys.readouterr().out, tmp_path


def test_what_the_demo_leaves_behind(ran):
    judgements, printed, folder = ran
    assert list(judgements) == ["base", "plain", "regularised"]
    assert all(name in printed for name in judgements)
    for j in judgements.values():
        kinds = j.behaviour.shortcut.count + j.behaviour.honest.count + j.behaviour.unfinished.count
        assert kinds == 20

    EmotionVectors.load(folder / "sandbox").check(load()[0])
    assert (folder / "z_over_steps.png").read_bytes().startswith(b"\x89PNG")

    runs = [wandb_file.read(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
    assert wandb.run is None
    assert len(runs) == 2
    for run, penalised in zip(runs, (False, True), strict=True):
        names = {name for row in run.history for name in row}
        assert {"train/emotion/desperate/mean", "train/emotion/calm/layer_0/p95", "train/loss"} <= names
        assert ("train/emoreg/hinge/desperate/penalty" in names) == penalised
    assert any("z_over_steps" in name for row in runs[1].history for name in row)
