"""Law 9: no waiting. Between logs nothing of ours brings a tensor's value to the host, whatever the trainer."""

import pytest
import torch

from emoreg import Band, Hinge, Regularizer, RegularizerCallback, Target, default_penalties
from tests.invariants.waits import PACKAGE, Waits
from tests.support import random_vectors
from tests.trainers.cases import CASES


@pytest.mark.parametrize("name", ["SFT", "DPO", "KTO", "Reward", "GRPO", "RLOO", "Distillation"])
def test_no_value_is_read_on_the_host_between_logs(name, tmp_path):
    case, found = CASES[name], []
    model = case.model()
    trainer = case.trainer(model, tmp_path, max_steps=6, logging_steps=3, learning_rate=1e-3)
    penalties = [*default_penalties(), Band("calm"), Hinge("sad", scope="last:2")]
    regularizer = Regularizer(random_vectors(model), penalties, target=Target("desperate", above_base=0.1))
    trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=1))
    with Waits(lambda what, function: found.append((trainer.state.global_step, what, function))):
        trainer.train()
    # Before the first optimizer step the term is proven, once; then come the logs, after steps 3 and 6.
    assert {step for step, _, _ in found} == {0, 3, 6}, found


READS = [
    "x[0].item()", "x.tolist()", "x.cpu()", "x.to('cpu')", "x.to(torch.device('cpu'), torch.float64)",
    "x.to(device='cpu')", "bool(x[0])", "int(x[0])", "float(x[0])", "[1, 2, 3][x[0].long()]", "x[x > 0]", "x.nonzero()",
    "x.numpy()", "torch.where(x > 0)", "x.masked_select(x > 0)", "x.unique()", "torch.equal(x, x)",
    "torch.allclose(x, x)", "1 if (x > 0).all() else 2", "x.index_put_((x > 0,), x.new_ones(1))", "max(*x)",
    "list(range(x[0].int()))", "torch.bincount(x.long())", "x.repeat_interleave(x.long())", "0.5 in x",
]  # fmt: skip
NO_READS = [
    "x.to(x.device)", "x.to(torch.float64)", "x.to(other.device)", "x.masked_fill(x > 0, 0.0)",
    "torch.where(x > 0, x, 0)", "x[1:]", "x[None]", "x[other.long()]", "x.sum()", "len(x)", "x.shape",
    "torch.zeros((), device=x.device)", "[*x]", "x * 2.0", "x.is_floating_point()",
]  # fmt: skip


def waits(code: str, file: str) -> list[str]:
    """What is found in a function of this code, as if it stood in a file."""
    found, scope = [], {"torch": torch}
    exec(compile(f"def function(x, other):\n    {code}", file, "exec"), scope)
    with Waits(lambda what, function: found.append((what, function))):
        scope["function"](torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1, 0]))
    assert {function for _, function in found} <= {"function"}
    return [what for what, _ in found]


class TestTheCheck:
    @pytest.mark.parametrize("code", READS)
    def test_it_finds_a_read_in_our_code_and_none_in_others(self, code):
        assert waits(code, f"{PACKAGE}/regularizer/term.py")
        assert not waits(code, "/site-packages/trl/trainer/sft_trainer.py")

    @pytest.mark.parametrize("code", NO_READS)
    def test_it_leaves_the_rest_alone(self, code):
        assert not waits(code, f"{PACKAGE}/regularizer/term.py")

    def test_it_finds_a_read_in_backward(self):
        found, scope = [], {}
        exec(compile("def hook(gradient):\n    gradient.sum().item()", f"{PACKAGE}/term.py", "exec"), scope)
        x = torch.ones(2, requires_grad=True)
        x.register_hook(scope["hook"])
        with Waits(lambda what, function: found.append(function)):
            x.sum().backward()
        assert found == ["hook"]
