"""Streamed moments equal those of all rows at once, and a direction needs emotions that differ."""

import pytest
import torch

from emoreg.extraction import Moments, MomentsFitter, difference_of_means


@pytest.fixture
def streamed():
    rows = torch.randn(2, 40, 5) + 100
    group = torch.randint(0, 3, (40,))
    fitter = MomentsFitter((1, 4), 3, squares=True)
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
            torch.testing.assert_close(moments.std[:, g], rows[:, group == g].std(1, unbiased=False), rtol=1e-8, atol=0)

    def test_of_a_union_equal_those_of_its_rows(self, streamed):
        moments, rows, group = streamed
        union = moments.regroup(torch.tensor([[True, False, True]]))
        torch.testing.assert_close(union.mean[:, 0], rows[:, group != 1].mean(1))
        torch.testing.assert_close(union.std[:, 0], rows[:, group != 1].std(1, unbiased=False), rtol=1e-8, atol=0)

    def test_name_the_layer_that_is_not_finite(self):
        fitter = MomentsFitter((1, 4), 1)
        for layer, value in ((1, 0.0), (4, torch.inf)):
            fitter.update(layer, torch.full((3, 2), value), torch.ones(3, 1))
        assert fitter.not_finite() == 4


class TestDifferenceOfMeans:
    """Each mean less the mean over emotions, whatever the emotions' counts."""

    def moments(self, means, count=(5.0, 1.0, 2.0)):
        count = torch.tensor(count, dtype=torch.float64)
        return Moments((3,), count, torch.tensor([means], dtype=torch.float64) * count[:, None])

    def test_emotions_weigh_alike(self):
        directions = difference_of_means(self.moments([[4.0, 1.0], [1.0, 1.0], [1.0, 7.0]]), ("a", "b", "c"))
        expected = torch.tensor([[2.0, -2.0], [-1.0, -2.0], [-1.0, 4.0]])
        torch.testing.assert_close(directions[0], torch.nn.functional.normalize(expected, dim=-1))

    def test_a_mean_at_the_centre_has_no_direction(self):
        with pytest.raises(
            ValueError, match=r"^the mean of 'b' coincides with the mean over emotions at layer 3, so it"
        ):
            difference_of_means(self.moments([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]), ("a", "b", "c"))

    def test_an_emotion_without_texts(self):
        with pytest.raises(ValueError, match=r"^no text of 'b' is left to fit a direction on$"):
            difference_of_means(self.moments([[0.0, 1.0]] * 3, count=(1.0, 0.0, 1.0)), ("a", "b", "c"))
