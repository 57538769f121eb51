"""The projection against its plain form, and what it keeps alive for backward."""

import pytest
import torch

from emoreg.reading.projection import project, standardise


def inputs(dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 32, generator=make).to(dtype).requires_grad_()
    directions = torch.nn.functional.normalize(torch.randn(5, 32, generator=make), dim=-1)
    return hidden, directions


def test_readings_are_those_of_a_plain_product():
    hidden, directions = inputs()
    penalised, everything = project(hidden, directions, 2)
    torch.testing.assert_close(everything, hidden.detach() @ directions.T)
    assert torch.equal(penalised, everything[..., :2])
    assert penalised.requires_grad
    assert not everything.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_a_plain_product(dtype):
    hidden, directions = inputs(dtype)
    (project(hidden, directions, 2)[0] ** 3).sum().backward()
    plain = hidden.detach().clone().requires_grad_()
    ((plain.float() @ directions[:2].T) ** 3).sum().backward()
    assert hidden.grad.dtype == dtype
    torch.testing.assert_close(hidden.grad, plain.grad, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_readings_are_fp32_also_under_autocast():
    hidden, directions = inputs(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        penalised, everything = project(hidden, directions, 2)
    assert penalised.dtype == everything.dtype == torch.float32
    assert torch.equal(everything, project(hidden, directions, 2)[1])


def test_no_hidden_state_is_kept_for_backward():
    hidden, directions = inputs()

    def kept(function):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            function(hidden * 1.0)
        return max(sizes, default=0)

    assert kept(lambda h: project(h, directions, 2)) < hidden.numel()
    assert kept(lambda h: h.square()) >= hidden.numel()  # that it can be seen


def test_standardise_gives_zero_mean_and_unit_spread_on_what_it_was_fitted_to():
    readings = torch.randn(1000, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 3.0, -1.0])
    z = standardise(readings, readings.mean(0), readings.std(0))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(3), atol=1e-5, rtol=0)
