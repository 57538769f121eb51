"""Scopes on batches small enough to read."""

import pytest
import torch

from emoreg.reading.scope import Scoped, check_scope, positions
from tests.support import padded, uneven_rows

# Row 0: BOS p p c c c; row 1: BOS p c c, padded.
IDS = torch.tensor([[1, 5, 6, 7, 8, 9], [1, 5, 6, 7, 0, 0]])
LABELS = torch.tensor([[-100, -100, -100, 7, 8, 9], [-100, -100, 6, 7, -100, -100]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
BATCH = {"input_ids": IDS, "labels": LABELS, "attention_mask": MASK}
# The same two sequences behind each other, as padding-free training has them.
PACKED = {
    "input_ids": torch.tensor([[1, 5, 6, 7, 8, 9, 1, 5, 6, 7]]),
    "labels": torch.tensor([[-100, -100, -100, 7, 8, 9, -100, -100, 6, 7]]),
    "position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]]),
}

EXPECTED = {
    "completion": ["...XXX", "..XX.."],
    "prompt": [".XX...", ".X...."],
    "all": [".XXXXX", ".XXX.."],
    "last:1": [".....X", "...X.."],
    "last:2": ["....XX", "..XX.."],
    "last:99": ["...XXX", "..XX.."],
    "reply_start": ["..X...", ".X...."],
}


def drawn(mask: torch.Tensor) -> list[str]:
    return ["".join("X" if x else "." for x in row) for row in mask.tolist()]


@pytest.mark.parametrize("scope", EXPECTED)
def test_right_padded(scope):
    assert drawn(positions(scope, BATCH)) == EXPECTED[scope]


@pytest.mark.parametrize("scope", EXPECTED)
def test_left_padded(scope):
    turned = {name: torch.stack([value[0], value[1].roll(2)]) for name, value in BATCH.items()}
    expected = [EXPECTED[scope][0], EXPECTED[scope][1][-2:] + EXPECTED[scope][1][:-2]]
    assert drawn(positions(scope, turned)) == expected


@pytest.mark.parametrize("scope", EXPECTED)
def test_packed(scope):
    assert drawn(positions(scope, PACKED)) == [EXPECTED[scope][0] + EXPECTED[scope][1][:4]]


def test_all_is_prompt_and_completion_without_overlap():
    batch = padded(uneven_rows(8))
    prompt, completion, both = (positions(scope, batch) for scope in ("prompt", "completion", "all"))
    assert not (prompt & completion).any()
    assert torch.equal(prompt | completion, both)


def test_a_sequences_first_position_never_counts_whatever_its_token():
    ids = torch.tensor([[5, 6, 5, 7]])
    assert drawn(positions("all", {"input_ids": ids})) == [".XXX"]
    assert drawn(positions("completion", {"input_ids": ids, "labels": ids})) == [".XXX"]
    assert drawn(positions(lambda inputs: inputs["input_ids"] > 0, {"input_ids": ids})) == [".XXX"]


def test_a_function_of_the_batch_never_gets_padding():
    assert drawn(positions(lambda inputs: inputs["input_ids"] < 6, BATCH)) == [".X....", ".X...."]


@pytest.mark.parametrize("scope", ["completions", "last:0", "last:-1", "last", ""])
def test_unknown_scopes_are_refused(scope):
    with pytest.raises(ValueError, match="unknown scope"):
        check_scope(scope)


@pytest.mark.parametrize("result", [torch.ones(2, 6), torch.ones(2, 5).bool(), [True]])
def test_a_function_that_returns_no_mask_is_refused(result):
    with pytest.raises(ValueError, match=r"a scope function must return a bool tensor of shape \(2, 6\)"):
        positions(lambda inputs: result, BATCH)


def test_labels_are_asked_for_where_they_are_needed():
    with pytest.raises(
        ValueError, match="scope 'completion' needs a label for every token, and the batch has only input_ids"
    ):
        positions("completion", {"input_ids": IDS})


class TestScoped:
    def test_a_scope_is_found_once_however_many_ask(self):
        asked = []

        def all_of_them(inputs):
            asked.append(inputs)
            return torch.ones_like(inputs["input_ids"], dtype=torch.bool)

        batch = Scoped({"input_ids": torch.ones(2, 4, dtype=torch.long)})
        first = batch.positions(all_of_them)
        assert torch.equal(first, batch.positions(all_of_them))
        assert torch.equal(first, batch.tokens(all_of_them))
        assert len(asked) == 1

    def test_it_selects_what_the_functions_select(self):
        ids = torch.arange(4, 16).view(4, 3)
        inputs = {"input_ids": ids, "labels": ids, "branch": torch.tensor([0, 0, 1, 1])}
        batch = Scoped(inputs)
        for scope in ("all", "completion", "last:1", "rejected:all", "both:completion"):
            assert torch.equal(batch.positions(scope), positions(scope, inputs)), scope
