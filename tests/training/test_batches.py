"""Batches of several conventions under one set of names."""

import torch

from emoreg.training.batches import branched, standard

IDS = torch.arange(4, 16).view(4, 3)


class TestStandard:
    def test_labels_stay_what_they_are(self):
        labels = IDS.clone()
        assert standard({"input_ids": IDS, "labels": labels, "use_cache": False})["labels"] is labels

    def test_a_completion_mask(self):
        mask = torch.tensor([[0, 1, 1]] * 4)
        assert standard({"input_ids": IDS, "completion_mask": mask})["labels"][:, 0].tolist() == [-100] * 4

    def test_prompt_and_completion_less_a_tools_tokens(self):
        one = standard({
            "prompt_ids": torch.tensor([[5, 6]]), "completion_ids": torch.tensor([[7, 8, 9, 0]]),
            "completion_mask": torch.tensor([[1, 1, 1, 0]]), "tool_mask": torch.tensor([[1, 0, 1, 1]]),
        })  # fmt: skip
        assert one["labels"].tolist() == [[-100, -100, 7, -100, 9, -100]]

    def test_chosen_above_rejected_of_another_width(self):
        one = standard({"chosen_labels": torch.tensor([[-100, 5]]), "rejected_labels": torch.tensor([[-100, 6, 7]])})
        assert one["labels"].tolist() == [[-100, 5, -100], [-100, 6, 7]]

    def test_the_last_tokens(self):
        mask = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]])
        one = standard({"input_ids": IDS, "attention_mask": mask, "logits_to_keep": 2})
        assert (one["labels"] != -100).int().tolist() == [[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1]]
        assert mask[1].tolist() == [1, 1, 0], "the trainer's own mask is left alone"


def test_branches_are_numbered_from_the_top():
    batch = branched({"input_ids": IDS, "labels": IDS}, 2)
    assert batch["branch"].tolist() == [0, 0, 1, 1]
    assert branched({"labels": torch.zeros(6, 2)}, 3)["branch"].tolist() == [0, 0, 1, 1, 2, 2]
