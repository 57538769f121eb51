"""What is taken out of directions."""

import pytest
import torch

from emoreg.extraction.denoising import denoise


class TestDenoise:
    """What neutral text varies along most is taken out; the rest keeps its way."""

    def test_the_largest_component_goes_and_the_others_stay(self):
        covariance = torch.diag(torch.tensor([9.0, 1.0, 1.0, 1.0], dtype=torch.float64))[None]  # 75 % in the first
        directions = torch.nn.functional.normalize(torch.tensor([[[5.0, 3.0, 4.0, 0.0]]]), dim=-1)
        torch.testing.assert_close(denoise(directions, covariance, 0.0).float(), directions)
        left = torch.tensor([[[0.0, 0.6, 0.8, 0.0]]])
        torch.testing.assert_close(denoise(directions, covariance, 0.5).float(), left)

    def test_a_direction_that_is_nothing_else_is_refused(self):
        covariance = torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))[None]
        with pytest.raises(ValueError, match="nothing of a direction is left"):
            denoise(torch.tensor([[[1.0, 0.0]]]), covariance, 0.5)

    def test_a_share_of_all_is_refused(self):
        with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
            denoise(torch.ones(1, 1, 2), torch.eye(2).double()[None], 1.0)
