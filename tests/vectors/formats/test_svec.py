"""activation-steering's .svec: JSON, by block."""

import json
from pathlib import Path

import pytest
import torch

from emoreg.model.hooks import hook_blocks
from emoreg.vectors.formats import read_directions, read_svec
from tests.vectors.formats.foreign import ibm_svec


def test_direction_l_is_the_output_of_block_l(tiny_llama):
    # SteeringVector.train takes layer l from hidden_states[l + 1].
    model, ids = tiny_llama(), torch.arange(4, 24)[None]
    hidden = model(ids, output_hidden_states=True).hidden_states
    found = read_directions(
        ibm_svec(Path("refusal.svec"), {i: hidden[i + 1][0, -1].detach() for i in (2, 0)}), "refusing"
    )
    seen = {}
    with hook_blocks(model, [0, 2], lambda layer, state: seen.update({layer: state[0, -1].detach()})):
        model(ids)
    assert (found.emotions, found.layers) == (("refusing",), (0, 2))
    for row, layer in enumerate(found.layers):
        assert torch.equal(found.shift[row, 0].float(), seen[layer])


def test_round_trip():
    rows = {layer: torch.randn(8) for layer in range(3)}
    found = read_svec(ibm_svec(Path("calm.svec"), rows))
    assert (found.emotions, found.layers) == (("calm",), (0, 1, 2))
    assert torch.equal(found.shift[:, 0].float(), torch.stack(list(rows.values())))
    assert torch.allclose(found.directions.norm(dim=-1), torch.ones(()).double())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1]", "no table of directions"),
        ('{"directions": {}}', "holds no direction"),
        ('{"directions": {"one": [1.0]}}', "'one' is no block number"),
        ('{"directions": {"-1": [1.0]}}', "'-1' is no block number"),
        ('{"directions": {"1": [1.0], "1": [2.0]}}', "a key twice"),
        ('{"directions": {"1": [1.0, "2"]}}', "direction 1 is no list of finite numbers"),
        ('{"directions": {"1": [true]}}', "direction 1 is no list"),
        ('{"directions": {"1": [[1.0]]}}', "direction 1 is no list"),
        ('{"directions": {"1": [NaN]}}', "direction 1 is no list of finite numbers"),
        ('{"directions": {"1": [1e999]}}', "direction 1 is no list of finite numbers"),
        (f'{{"directions": {{"1": [{"9" * 400}]}}}}', "direction 1 is no list of finite numbers"),
        ('{"directions": {"1": [0, 0]}}', "length 0"),
        ('{"directions": {"1": [1.0], "2": [1.0, 2.0]}}', "not one"),
        ("[" * 10**5, "nests too deep"),
    ],
)
def test_refused(text, message):
    Path("v.svec").write_text(text)
    with pytest.raises(ValueError, match=f"v.svec is no steering vector.*{message}"):
        read_svec("v.svec")


def test_no_text_at_all():
    Path("v.svec").write_bytes(b"\xff\xfe\x00\xd8" * 9)
    with pytest.raises(ValueError, match="v.svec is no steering vector"):
        read_svec("v.svec")


def test_numbers_as_python_writes_them():
    Path("v.svec").write_text(json.dumps({"directions": {"3": [1, 2.5e-3, -7]}}))
    assert read_svec("v.svec").shift[0, 0].tolist() == [1, 2.5e-3, -7]
