"""Streamed moments equal those of all vectors at once."""

import pytest
import torch

from emoreg.extraction import MomentsFitter


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
