"""Law 7: resume is exact. Killed at any step and resumed, a run ends bitwise where the unbroken one does."""

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from emoreg import Regularizer, RegularizerCallback, Target, default_penalties
from emoreg.regularizer.schedules import linear
from tests import tiny
from tests.support import random_vectors, sft_trainer, uneven_rows

STEPS, TRIALS = 12, 20


class Kill(TrainerCallback):
    """SIGKILL to the own process at the beginning or the end of a step."""

    def __init__(self, step: int, event: str):
        def kill(args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, event, kill)


def train(folder: Path, peft: bool, kill: tuple[int, str] | None = None, resume: bool = False, schedule=None) -> None:
    """Train under a closed loop that logs every second step and saves every third; leaves weights and history."""
    torch.set_num_threads(1)
    model = tiny.llama(attention_dropout=0.1)
    options = {}
    if peft:
        options["peft_config"] = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1, init_lora_weights=False)
    torch.manual_seed(0)
    trainer = sft_trainer(
        model, tiny.tokenizer(), folder, uneven_rows(28), max_steps=STEPS, logging_steps=2, save_strategy="steps",
        save_steps=3, learning_rate=1e-3, **options,
    )  # fmt: skip
    target = Target("desperate", above_base=-0.2, gain=2.0) if schedule is None else None
    regularizer = Regularizer(random_vectors(model), default_penalties(), schedule=schedule, target=target)
    trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=1))
    if kill:
        trainer.add_callback(Kill(*kill))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if resume else None)
    torch.save({name: p.detach() for name, p in trainer.model.named_parameters()}, folder / "weights.pt")
    # Ours alone: the trainer itself forgets the loss of a window that a checkpoint cuts in two.
    history = [{k: v for k, v in log.items() if k.startswith("emo")} for log in trainer.state.log_history]
    (folder / "history.json").write_text(json.dumps(history))


def in_a_process(*args, **kwargs) -> int:
    """Its exit code. Forked: a new interpreter would import for longer than it trains."""
    process = multiprocessing.get_context("fork").Process(target=train, args=args, kwargs=kwargs)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folders = {}
    for peft in (False, True):
        folders[peft] = tmp_path_factory.mktemp("unbroken")
        assert in_a_process(folders[peft], peft) == 0
    return folders


def same_run(a: Path, b: Path) -> bool:
    ours, theirs = (torch.load(folder / "weights.pt", weights_only=True) for folder in (a, b))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_killed_and_resumed_a_run_ends_bitwise_where_the_unbroken_one_does(trial, unbroken, tmp_path):
    choose = random.Random(trial)
    peft = trial % 2 == 1
    kill = (choose.randrange(3, STEPS), choose.choice(["on_step_begin", "on_step_end"]))
    assert in_a_process(tmp_path, peft, kill=kill) == -signal.SIGKILL
    assert not (tmp_path / "weights.pt").exists()
    if get_last_checkpoint(str(tmp_path)) is None:  # killed at the end of the third step, before it was saved
        assert kill == (3, "on_step_end")
    assert in_a_process(tmp_path, peft, resume=True) == 0
    assert same_run(tmp_path, unbroken[peft])
    # The history too: statistics of the window that was cut in two, and the closed loop's factor.
    mine, theirs = (json.loads((folder / "history.json").read_text()) for folder in (tmp_path, unbroken[peft]))
    assert mine == theirs
    assert len({log["emoreg/target/factor"] for log in theirs if "emoreg/target/factor" in log}) > 3


def test_with_another_state_it_would_not(unbroken, tmp_path):
    assert in_a_process(tmp_path, False, kill=(8, "on_step_begin")) == -signal.SIGKILL
    checkpoint = get_last_checkpoint(str(tmp_path))
    state = Path(str(checkpoint)) / "trainer_state.json"
    saved = json.loads(state.read_text())
    saved["stateful_callbacks"]["RegularizerCallback"]["attributes"]["term"]["loop"]["log_factor"] += 0.01
    state.write_text(json.dumps(saved))
    assert in_a_process(tmp_path, False, resume=True) == 0
    assert not same_run(tmp_path, unbroken[False])


def test_a_checkpoint_of_a_plain_run_can_be_gone_on_from(tmp_path):
    sft_trainer(tiny.llama(), tiny.tokenizer(), tmp_path, save_strategy="steps", save_steps=3).train()
    with pytest.raises(ValueError, match="has no state of this callback, and a Target that is above_base"):
        train(tmp_path, False, resume=True)
    train(tmp_path, False, resume=True, schedule=linear(2))
    assert json.loads((tmp_path / "history.json").read_text())[-2]


def test_a_checkpoint_of_another_regularizer_is_refused(unbroken, tmp_path):
    assert in_a_process(tmp_path, False, kill=(8, "on_step_begin")) == -signal.SIGKILL
    with pytest.raises(ValueError, match="the checkpoint is of a run with a Target, and this regularizer has none"):
        train(tmp_path, False, resume=True, schedule=linear(2))
