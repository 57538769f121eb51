"""Ids to readings: what the plain way gives, whatever the padding, and the model is left as it was."""

import torch

from emoreg.reading import readings, z_of
from tests.support import padded, random_vectors, uneven_rows


def plain(model, vectors, ids_BT, attention_BT):
    """From `output_hidden_states`; the last block is left out, whose entry there is behind the final norm."""
    states = model(input_ids=ids_BT, attention_mask=attention_BT, output_hidden_states=True).hidden_states
    by_layer = zip(vectors.layers, vectors.directions, strict=True)
    return [states[layer + 1] @ directions_KD.T for layer, directions_KD in by_layer]


class TestReadings:
    def test_are_those_of_output_hidden_states(self, tiny_llama):
        model = tiny_llama()
        vectors = random_vectors(model, layers=(0, 2))
        batch = padded(uneven_rows(3))
        with torch.no_grad():
            expected = plain(model.eval(), vectors, batch["input_ids"], batch["attention_mask"])
        found = readings(model, vectors.layers, vectors.directions, batch["input_ids"], batch["attention_mask"])
        assert len(found) == 2
        for own_BTK, expected_BTK in zip(found, expected, strict=True):
            torch.testing.assert_close(own_BTK, expected_BTK)
            assert not own_BTK.requires_grad

    def test_come_in_the_order_that_was_asked_for(self, tiny_llama):
        model = tiny_llama()
        vectors, ids_BT = random_vectors(model), torch.randint(4, 60, (2, 7))
        there = readings(model, (0, 1, 2, 3), vectors.directions, ids_BT, torch.ones_like(ids_BT))
        back = readings(model, (3, 2, 1, 0), vectors.directions.flip(0), ids_BT, torch.ones_like(ids_BT))
        assert all(torch.equal(one, other) for one, other in zip(there, reversed(back), strict=True))

    def test_dropout_is_off_and_training_goes_on(self, tiny_llama):
        model = tiny_llama(attention_dropout=0.5).train()
        vectors, ids_BT = random_vectors(model), torch.randint(4, 60, (2, 7))
        twice = [readings(model, vectors.layers, vectors.directions, ids_BT, ids_BT > 0) for _ in range(2)]
        assert all(torch.equal(one, other) for one, other in zip(*twice, strict=True))
        assert all(module.training for module in model.modules())


class TestZ:
    def test_is_the_reading_in_units_of_neutral_text(self, tiny_llama):
        model = tiny_llama()
        vectors, ids_BT = random_vectors(model), torch.randint(4, 60, (2, 7))
        mask_BT = torch.ones_like(ids_BT)
        raw = readings(model, vectors.layers, vectors.directions, ids_BT, mask_BT)
        for row, z_BTK in enumerate(z_of(model, vectors, ids_BT, mask_BT)):
            torch.testing.assert_close(z_BTK * vectors.std[row] + vectors.mean[row], raw[row])
