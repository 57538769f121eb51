"""Hidden states to fp32 readings, without keeping the hidden states for backward.

Shapes: B batch, T positions, D width, K emotions, P penalised emotions.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class _Project(torch.autograd.Function):
    """``readings = hidden @ directions.T`` in fp32.

    It is linear in the hidden state, so its backward needs only the directions. A plain ``hidden.float() @ V`` would
    keep an fp32 copy of every hidden state alive until backward.
    """

    @staticmethod
    def forward(ctx, hidden_BTD, directions_KD, n_penalised):
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            readings_BTK = hidden_BTD.float() @ directions_KD.T
        # Kept on ctx, not saved: a hook that runs inside a checkpointed region must not change what the region saves.
        ctx.directions_PD = directions_KD[:n_penalised]
        ctx.dtype = hidden_BTD.dtype
        ctx.mark_non_differentiable(readings_BTK)
        ctx.set_materialize_grads(False)  # else backward is handed zeros for them, as large as the readings
        return readings_BTK[..., :n_penalised].clone(), readings_BTK

    @staticmethod
    def backward(ctx, grad_BTP, _):  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.autocast(grad_BTP.device.type, enabled=False):
            grad_BTD = (grad_BTP @ ctx.directions_PD).to(ctx.dtype)
        return grad_BTD, None, None


def project(
    hidden_BTD: Float[Tensor, "B T D"], directions_KD: Float[Tensor, "K D"], n_penalised: int
) -> tuple[Float[Tensor, "B T P"], Float[Tensor, "B T K"]]:
    """Readings of every direction, and a differentiable copy of those that a penalty needs.

    Args:
        hidden_BTD: residual stream at one block, of any float dtype.
        directions_KD: unit directions, fp32, on the same device; those that carry a gradient come first.
        n_penalised: P, how many do.

    Returns:
        The readings of the penalised emotions, through which gradients flow to ``hidden_BTD``, and the readings of
        all K, through which none do. Both fp32, whatever autocast says.
    """
    return _Project.apply(hidden_BTD, directions_KD, n_penalised)  # pyright: ignore[reportReturnType]


def standardise(
    readings: Float[Tensor, "... K"], mean_K: Float[Tensor, " K"], std_K: Float[Tensor, " K"]
) -> Float[Tensor, "... K"]:
    """z: readings in units of the base model's token spread on neutral text."""
    return (readings - mean_K) / std_K
