"""Streamed moments equal those of all rows at once, and a direction needs emotions that differ."""

import pytest
import torch

from emoreg.extraction import Moments, MomentsFitter
from emoreg.extraction.denoising import denoise
from emoreg.extraction.estimators import difference_of_means


@pytest.fixture
def streamed():
    rows = torch.randn(2, 40, 5) + 100
    group = torch.randint(0, 3, (40,))
    fitter = MomentsFitter((1, 4), 3, products=True)
    for at in range(0, 40, 7):
        for layer, layer_rows in zip((1, 4), rows, strict=True):
            fitter.update(layer, layer_rows[at : at + 7], group[at : at + 7, None] == torch.arange(3))
    return fitter.result(), rows.double(), group


class TestMoments:
    """Counts, means and spreads per layer and group."""

    def test_of_a_stream_equal_those_of_all_rows(self, streamed):
        moments, rows, group = streamed
        for g in range(3):
            assert moments.count[g] == (group == g).sum()
            torch.testing.assert_close(moments.mean[:, g], rows[:, group == g].mean(1))

    def test_the_covariance_is_that_of_all_weighted_rows(self, streamed):
        _, rows, _ = streamed
        one = MomentsFitter((1, 4), 1, products=True)
        for layer, layer_rows in zip((1, 4), rows, strict=True):
            one.update(layer, layer_rows[:25], torch.ones(25, 1))
            one.update(layer, layer_rows[20:], (torch.arange(20) >= 5)[:, None])  # five rows again, at weight 0
        expected = torch.stack([torch.cov(layer_rows.T, correction=0) for layer_rows in rows])
        torch.testing.assert_close(one.result().covariance, expected, rtol=1e-7, atol=1e-9)

    def test_of_a_union_equal_those_of_its_rows(self, streamed):
        moments, rows, group = streamed
        union = moments.regroup(torch.tensor([[True, False, True]]))
        torch.testing.assert_close(union.mean[:, 0], rows[:, group != 1].mean(1))

    def test_name_the_layer_that_is_not_finite(self):
        fitter = MomentsFitter((1, 4), 1)
        for layer, value in ((1, 0.0), (4, torch.inf)):
            fitter.update(layer, torch.full((3, 2), value), torch.ones(3, 1))
        assert fitter.not_finite() == 4


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


class TestDifferenceOfMeans:
    """Each mean less the mean over emotions, whatever the emotions' counts."""

    def moments(self, means, count=(5.0, 1.0, 2.0)):
        count = torch.tensor(count, dtype=torch.float64)
        return Moments((3,), count, torch.tensor([means], dtype=torch.float64) * count[:, None])

    def test_emotions_weigh_alike(self):
        directions = difference_of_means(self.moments([[4.0, 1.0], [1.0, 1.0], [1.0, 7.0]]), ("a", "b", "c"))
        expected = torch.tensor([[2.0, -2.0], [-1.0, -2.0], [-1.0, 4.0]])
        torch.testing.assert_close(directions[0], torch.nn.functional.normalize(expected, dim=-1).double())

    def test_a_mean_at_the_centre_has_no_direction(self):
        with pytest.raises(
            ValueError, match=r"^the mean of 'b' coincides with the mean over emotions at layer 3, so it"
        ):
            difference_of_means(self.moments([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]), ("a", "b", "c"))

    def test_an_emotion_without_texts(self):
        with pytest.raises(ValueError, match=r"^no text of 'b' is left to fit a direction on$"):
            difference_of_means(self.moments([[0.0, 1.0]] * 3, count=(1.0, 0.0, 1.0)), ("a", "b", "c"))
