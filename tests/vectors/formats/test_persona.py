"""persona-vectors' .pt: rows by hidden state, one more than the block, and nothing unpickled."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from emoreg.model.hooks import hook_blocks
from emoreg.vectors.formats import read_directions, read_persona
from tests.vectors.formats.foreign import persona_pt

STATES = torch.arange(1.0, 41).reshape(5, 8)  # embeddings and 4 blocks


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_row_r_is_block_r_less_1(tiny_llama):
    model, ids = tiny_llama(), torch.arange(4, 24)[None]
    states = torch.stack([state[0, -1].detach() for state in model(ids, output_hidden_states=True).hidden_states])
    found = read_directions(persona_pt(Path("calm_response_avg_diff.pt"), states))
    seen = {}
    with hook_blocks(model, range(4), lambda layer, state: seen.update({layer: state[0, -1].detach()})):
        model(ids)
    assert found.layers == (0, 1, 2)
    for row, layer in enumerate(found.layers):
        assert torch.equal(found.shift[row, 0].float(), seen[layer])
    # Why block 3 is left out: its row is of the state after the final norm.
    assert not torch.allclose(states[4], seen[3], atol=0.1)


@pytest.mark.parametrize(
    ("name", "emotion", "rule"),
    [
        ("evil_response_avg_diff.pt", "evil", "mean of the response"),
        ("evil_prompt_avg_diff.pt", "evil", "mean of the prompt"),
        ("evil_prompt_last_diff.pt", "evil", "last token of the prompt"),
        ("mine.pt", "mine", "unknown"),
    ],
)
def test_the_files_name_says_what_it_is(name, emotion, rule):
    found = read_persona(persona_pt(Path(name), STATES))
    assert (found.emotions, found.token_rule) == ((emotion,), rule)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_round_trip_in_every_precision(dtype):
    found = read_persona(persona_pt(Path("v.pt"), STATES.to(dtype)))
    assert torch.equal(found.shift[:, 0], STATES.to(dtype)[1:4].double())
    assert torch.allclose(found.directions.norm(dim=-1), torch.ones(()).double())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"v": STATES}, "holds a dict, expected one float tensor"),
        (STATES[1], "expected \\(blocks \\+ 1, width\\)"),
        (STATES[:2], "expected \\(blocks \\+ 1, width\\)"),
        (STATES.long(), "torch LongStorage"),
        (STATES * torch.nan, "the vector of block 0 has length nan"),
        (STATES * 0, "the vector of block 0 has length 0"),
        (torch.ones(1, 1).expand(10**6, 10**6), "is not what the file holds"),
        (torch.nn.Parameter(STATES), "_rebuild_parameter"),
    ],
)
def test_refused(value, message):
    torch.save(value, "v.pt")
    with pytest.raises(ValueError, match=f"v.pt is no persona vector.*{message}"):
        read_persona("v.pt")


def test_nothing_is_unpickled():
    torch.save(Bomb(), "zip.pt")
    torch.save(Bomb(), "legacy.pt", _use_new_zipfile_serialization=False)
    Path("plain.pt").write_bytes(pickle.dumps(Bomb()))
    for path in ("zip.pt", "legacy.pt", "plain.pt"):
        with pytest.raises(ValueError, match=f"{path} is no persona vector"):
            read_persona(path)
    assert not Path("exploded").exists()
    torch.load("zip.pt", weights_only=False)  # it would have
    assert Path("exploded").exists()


def test_allocations_that_a_pickle_asks_for_are_refused_unread():
    """torch's safe list has bytearray: a hundred bytes of file would be a terabyte of memory."""
    persona_pt(Path("v.pt"), STATES)
    program = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R."
    with zipfile.ZipFile("v.pt") as old, zipfile.ZipFile("huge.pt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, program if entry.filename.endswith("data.pkl") else old.read(entry))
    with pytest.raises(ValueError, match="asks for 'builtins bytearray'"):
        read_persona("huge.pt")
