"""Scores against scikit-learn, against plain loops, and against what they must be where the truth is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import one_hot

from emoreg.extraction.estimators import difference_of_means
from emoreg.extraction.moments import Moments
from emoreg.validation import geometry, scores

K, GROUPS, FOLDS = 3, 20, 4


def texts(strength: float, width: int = 12, layers: int = 2, seed: int = 0):
    """Rows of three emotions in twenty scenes; each scene has a nuisance of its own, as large as the noise."""
    make = torch.Generator().manual_seed(seed)
    emotion_N = torch.arange(K).repeat(GROUPS)
    group_N = torch.arange(GROUPS).repeat_interleave(K)
    direction_KD = torch.linalg.qr(torch.randn(width, K, generator=make))[0].T
    rows_LND = (
        torch.randn(layers, K * GROUPS, width, generator=make) + torch.randn(GROUPS, width, generator=make)[group_N]
    )
    return rows_LND + strength * direction_KD[emotion_N], emotion_N, group_N, group_N % FOLDS


def fit(rows_LND, emotion_N):
    member_KN = one_hot(emotion_N, K).double().T
    moments = Moments((0, 1)[: len(rows_LND)], member_KN.sum(1), member_KN @ rows_LND.double())
    return difference_of_means(moments, ("a", "b", "c")).float()


class TestHeldOut:
    def test_each_text_is_read_along_directions_that_never_saw_its_fold(self):
        rows_LND, emotion_N, _, fold_N = texts(1.0)
        readings_LNK = scores.vector_readings(rows_LND, emotion_N, fold_N, fit)
        for n in (0, 7, 31):
            others_N = fold_N != fold_N[n]
            directions_LKD = fit(rows_LND[:, others_N], emotion_N[others_N])
            for layer in range(2):
                expected_K = directions_LKD[layer] @ rows_LND[layer, n]
                torch.testing.assert_close(readings_LNK[layer, n], expected_K)


class TestAuc:
    def test_is_scikit_learns_over_the_pairs_of_one_fold(self):
        rows_LND, emotion_N, group_N, fold_N = texts(1.0)
        readings_LNK = scores.vector_readings(rows_LND, emotion_N, fold_N, fit)
        found_LK = scores.auc_draws(readings_LNK, emotion_N, fold_N, group_N, 0, 0)[0]
        for layer in range(2):
            for k in range(K):
                by_fold = [
                    roc_auc_score(emotion_N[fold_N == f] == k, readings_LNK[layer, fold_N == f, k])
                    for f in range(FOLDS)
                ]  # folds are of one size here, so their mean is that of the pairs
                assert found_LK[layer, k].item() == pytest.approx(np.mean(by_fold), abs=1e-6)

    def test_ties_count_half(self):
        readings = torch.zeros(1, 6, 2)
        labels, one = torch.tensor([0, 1] * 3), torch.zeros(6, dtype=torch.long)
        assert scores.auc_draws(readings, labels, one, torch.arange(6), 0, 0)[0].tolist() == [[0.5, 0.5]]

    def test_a_draw_is_the_auc_of_the_texts_that_it_repeats(self):
        rows_LND, emotion_N, group_N, fold_N = texts(0.7)
        readings_LNK = scores.vector_readings(rows_LND, emotion_N, fold_N, fit)
        found_BLK = scores.auc_draws(readings_LNK, emotion_N, fold_N, group_N, 3, seed=5)
        drawn = torch.randint(GROUPS, (3, GROUPS), generator=torch.Generator().manual_seed(5))
        for b, groups in enumerate(drawn, start=1):
            repeated = torch.cat([torch.where(group_N == g)[0] for g in groups])
            plain_LK = scores.auc_draws(
                readings_LNK[:, repeated], emotion_N[repeated], fold_N[repeated], group_N[repeated], 0, 0
            )[0]
            torch.testing.assert_close(found_BLK[b], plain_LK)

    def test_the_interval_holds_the_truth_about_as_often_as_it_says(self):
        """Fixed readings whose true AUC is known; of 60 samples, 95 % intervals may miss it a few times."""
        truth, missed = 0.7602, 0  # of two normals whose means are one standard deviation apart
        for seed in range(60):
            make = torch.Generator().manual_seed(seed)
            labels = torch.arange(2).repeat(40)
            readings = torch.stack([-labels.float(), labels.float()], -1)[None] + torch.randn(1, 80, 2, generator=make)
            groups = torch.arange(40).repeat_interleave(2)
            draws = scores.auc_draws(readings, labels, torch.zeros(80, dtype=torch.long), groups, 200, seed)[:, 0, 1]
            low, high = draws.quantile(0.025), draws.quantile(0.975)
            missed += not low <= truth <= high
        assert 0 <= missed <= 9, missed


class TestNull:
    def test_one_permutation_is_the_plain_refit_on_shuffled_labels(self):
        rows_LND, emotion_N, group_N, fold_N = texts(1.0)
        found_K = scores.null_maxima(rows_LND, emotion_N, fold_N, group_N, 1, seed=3)[0]
        make, shuffled_N = np.random.default_rng(3), emotion_N.clone()
        for g in range(GROUPS):
            members = torch.where(group_N == g)[0]
            shuffled_N[members] = emotion_N[members[make.permutation(K)]]
        readings_LNK = scores.vector_readings(rows_LND, shuffled_N, fold_N, fit)
        slow_LK = scores.auc_draws(readings_LNK, shuffled_N, fold_N, group_N, 0, 0)[0]
        torch.testing.assert_close(found_K, slow_LK.max(0).values, atol=1e-5, rtol=0)

    def test_it_finds_what_is_there_and_nothing_where_there_is_nothing(self):
        def p_of(strength, seed):
            rows_LND, emotion_N, group_N, fold_N = texts(strength, seed=seed)
            readings_LNK = scores.vector_readings(rows_LND, emotion_N, fold_N, fit)
            best_K = scores.auc_draws(readings_LNK, emotion_N, fold_N, group_N, 0, 0)[0].max(0).values
            null_BK = scores.null_maxima(rows_LND, emotion_N, fold_N, group_N, 60, seed)
            return ((1 + (null_BK >= best_K).sum(0)) / 61).tolist()

        assert max(p_of(2.0, 0)) < 0.05
        nothing = [p for seed in range(12) for p in p_of(0.0, seed)]
        assert np.mean(np.array(nothing) <= 0.05) <= 0.17, "about one in twenty, of 36"
        assert 0.3 < np.mean(nothing) < 0.7


class TestStability:
    def test_halves_tell_how_near_the_whole_is_to_the_truth(self):
        """Directions of noisy texts against the planted one: what split halves say must be what is."""
        make = torch.Generator().manual_seed(0)
        truth, halves, wholes = torch.zeros(40), [], []
        truth[0] = 1.0
        for _ in range(60):
            rows = torch.randn(30, 40, generator=make) + 2 * truth
            first, second, whole = (
                torch.nn.functional.normalize(part.mean(0), dim=0) for part in (rows[:15], rows[15:], rows)
            )
            halves.append(first @ second)
            wholes.append(whole @ truth)
        expected = geometry.reliability(torch.stack(halves).mean())
        assert expected.item() == pytest.approx(torch.stack(wholes).mean().item(), abs=0.02)

    def test_enough_texts_are_enough(self):
        half = torch.tensor(0.5)  # with 20 texts a half
        n = geometry.texts_enough(half, 20.0).item()
        cosine = (n / (n + 20 * (1 - 0.5) / 0.5)) ** 0.5
        assert cosine == pytest.approx(geometry.ENOUGH, abs=0.01)


class TestPlane:
    def test_finds_the_axes_that_were_planted(self):
        make = torch.Generator().manual_seed(0)
        ratings = {f"e{k}": (float(v), float(a)) for k, (v, a) in enumerate(2 * torch.rand(20, 2, generator=make) - 1)}
        axes = torch.linalg.qr(torch.randn(16, 2, generator=make))[0].T
        places = torch.tensor(list(ratings.values())) * torch.tensor([2.0, 1.0])
        found = geometry.plane(places @ axes + 0.02 * torch.randn(20, 16, generator=make), list(ratings), ratings)
        assert found["valence_r"] > 0.95
        assert found["arousal_r"] > 0.8, "the two are correlated in the draw, principal components are not"
        assert np.corrcoef(np.array(found["places"])[:, 0], [v for v, _ in ratings.values()])[0, 1] > 0.95, "sign"

    def test_too_few_ratings_say_nothing(self):
        assert geometry.plane(torch.eye(4), list("abcd"), {"a": (0.0, 0.0)}) == {}
