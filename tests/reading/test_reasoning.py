"""The scope between two markers, on batches small enough to read. 90 91 opens, 95 96 closes; 1 is BOS, 0 padding."""

import pytest
import torch

from emoreg import Reasoning
from emoreg.reading.scope import positions
from tests import tiny
from tests.reading.test_scope import drawn

THINK = Reasoning((90, 91), (95, 96))


def batch(*rows: list[int], prompt: int = 2) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :prompt] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_between_the_markers_and_without_them():
    one = batch([1, 5, 90, 91, 7, 8, 95, 96, 9], [1, 5, 6, 90, 91, 7, 95, 96])
    assert drawn(positions(THINK, one)) == ["....XX...", ".....X..."]


def test_the_opening_marker_may_stand_in_the_prompt():
    one = batch([1, 90, 91, 7, 8, 95, 96, 9], prompt=3)
    assert drawn(positions(THINK, one)) == ["...XX..."]


def test_a_reasoning_that_was_cut_off_goes_on_to_the_end():
    assert drawn(positions(THINK, batch([1, 5, 90, 91, 7, 8]))) == ["....XX"]


def test_two_reasonings_and_none():
    one = batch([1, 5, 90, 91, 7, 95, 96, 8, 90, 91, 9, 95, 96], [1, 5, 6, 7, 95, 96, 8])
    assert drawn(positions(THINK, one)) == ["....X.....X..", "." * 13]


def test_half_a_marker_is_none():
    assert drawn(positions(THINK, batch([1, 5, 90, 7, 91, 8]))) == ["......"]


def test_in_a_packed_row_a_reasoning_ends_with_its_sequence():
    first, second = [1, 5, 90, 91, 7], [1, 5, 6, 8]
    packed = {
        "input_ids": torch.tensor([first + second]),
        "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]]),
        "labels": torch.tensor([[-100, -100, 90, 91, 7, -100, -100, 6, 8]]),
    }
    assert drawn(positions(THINK, packed)) == ["....X...."]


def test_left_padding():
    one = batch([1, 5, 90, 91, 7, 8, 95, 96])
    turned = {
        name: torch.nn.functional.pad(v, (3, 0), value=-100 if name == "labels" else 0) for name, v in one.items()
    }
    assert drawn(positions(THINK, turned)) == [".......XX.."]


def test_markers_of_a_tokenizer():
    tokenizer = tiny.tokenizer()
    text = "ab<think>why not</think>so"
    ids = torch.tensor([[1, *tokenizer.encode(text)]])
    mask = positions(Reasoning.between(tokenizer), {"input_ids": ids, "labels": ids})
    assert tokenizer.decode(ids[mask]) == "why not"


def test_an_empty_marker_is_refused():
    with pytest.raises(ValueError, match="end"):
        Reasoning((90,), ())


def test_a_batch_without_labels_is_refused():
    with pytest.raises(ValueError, match="scope Reasoning needs input_ids and labels"):
        positions(THINK, {"input_ids": torch.tensor([[1, 2]])})
