"""Token ids to readings and z: what a model, as it is, reads along some directions. No gradient, and nothing trains.

Shapes: B texts, T positions, L layers, K emotions, D width.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from emoreg.model import evaluating, input_device, run_to
from emoreg.reading.projection import project, standardise
from emoreg.vectors import EmotionVectors


def readings(
    model: nn.Module,
    layers: Sequence[int],
    directions_LKD: Float[Tensor, "L K D"],
    ids_BT: Int[Tensor, "B T"],
    attention_BT: Int[Tensor, "B T"] | Bool[Tensor, "B T"],
) -> list[Float[Tensor, "B T K"]]:
    """Readings at every token of a batch, in evaluation mode and no further than the last layer.

    Args:
        model: bare or wrapped, whole or spread over devices or ranks; of a sharded one every rank must call this.
        layers: L block numbers.
        directions_LKD: a layer's directions, fp32.
        ids_BT: token ids, on any device.
        attention_BT: what is no padding.

    Returns:
        One table per layer, in the order of ``layers``, fp32, on the device of the ids.

    Raises:
        ValueError: for a layer that is out of range or not run once.
    """
    found: dict[int, Tensor] = {}
    of_layer, where = dict(zip(layers, directions_LKD, strict=True)), input_device(model)

    def visit(layer: int, hidden_BTD: Tensor) -> None:
        own_BTD = hidden_BTD[:, -ids_BT.shape[1] :]  # prompt tuning's virtual tokens come first
        found[layer] = project(own_BTD, of_layer[layer].to(hidden_BTD.device), 0)[1].to(ids_BT.device)

    with evaluating(model):
        run_to(model, layers, visit, input_ids=ids_BT.to(where), attention_mask=attention_BT.long().to(where))
    return [found[layer] for layer in layers]


def z_of(
    model: nn.Module,
    vectors: EmotionVectors,
    ids_BT: Int[Tensor, "B T"],
    attention_BT: Int[Tensor, "B T"] | Bool[Tensor, "B T"],
) -> list[Float[Tensor, "B T K"]]:
    """z of every emotion at each token of a batch, one table per layer of the vectors. All else is as in `readings`."""
    device = ids_BT.device
    read = readings(model, vectors.layers, vectors.directions, ids_BT, attention_BT)
    return [
        standardise(readings_BTK, mean_K.to(device), std_K.to(device))
        for readings_BTK, mean_K, std_K in zip(read, vectors.mean, vectors.std, strict=True)
    ]
