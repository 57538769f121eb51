"""A planted direction comes out of every estimator; the re-centred one that others use by default is shown failing."""

import pytest
import torch
from scipy.linalg import sqrtm
from torch.nn.functional import normalize

from emoreg.corpus import LabelledText
from emoreg.extraction import ESTIMATORS, extract, fit_directions
from emoreg.extraction.estimators import NEED_SAMPLE, Sample, class_pca, difference_of_means, fit, leace, logistic
from emoreg.extraction.moments import Moments, MomentsFitter
from tests import tiny
from tests.extraction.texts import MARKERS

EMOTIONS = ("desperate", "calm", "sad", "angry")
PATTERN = tuple(name for name in ESTIMATORS if name != "leace")


def planted(n: int, size: int = 64, noise: float = 0.25, uneven: float = 0.75, seed: int = 0):
    """Text vectors of four emotions, a direction of its own each, in uneven strength, over a nuisance that varies as
    much as the emotions are strong and is no emotion's; their moments, themselves, and what should be found."""
    make = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, 5, generator=make, dtype=torch.float64))
    emotion_N = torch.arange(4).repeat_interleave(n)
    strength_N1 = 2 * (1 + uneven * (2 * torch.rand(4 * n, 1, generator=make, dtype=torch.float64) - 1))
    nuisance_N1 = 2 * torch.randn(4 * n, 1, generator=make, dtype=torch.float64)
    rows_ND = 5 + strength_N1 * basis.T[emotion_N] + nuisance_N1 * basis.T[4]
    rows_ND += noise * torch.randn(4 * n, size, generator=make, dtype=torch.float64)
    fitter = MomentsFitter([0], 4, products=True)
    fitter.update(0, rows_ND, torch.nn.functional.one_hot(emotion_N))
    truth_KD = normalize(basis.T[:4] - basis.T[:4].mean(0), dim=-1)
    return fitter.result(), Sample(rows_ND[None], emotion_N), truth_KD


class TestPlantedTruth:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("estimator", PATTERN)
    def test_found_in_spite_of_nuisance_and_uneven_strength(self, estimator, seed):
        moments, sample, truth_KD = planted(100, seed=seed)
        cosine_K = (fit(estimator, moments, EMOTIONS, sample)[0, :, 0] * truth_KD).sum(-1)
        assert cosine_K.min() >= 0.95, cosine_K

    def test_leace_needs_even_strength_or_many_texts(self):
        """Its inverse is exact, so theory gives less: an error in the mean is weighed by the emotion's own spread."""
        few, many, even = (planted(100), planted(20_000, size=16), planted(2_000, size=16, uneven=0.1))
        cosines = [float((leace(moments)[0] * truth_KD).sum(-1).min()) for moments, _, truth_KD in (few, many, even)]
        assert cosines[0] < 0.9
        assert min(cosines[1:]) >= 0.95, cosines

    def test_principal_components_of_recentred_differences_find_nothing(self):
        """What repeng does by default: with the mean of the differences, what was planted is gone too."""
        _, sample, truth_KD = planted(100)
        rows_ND = sample.vectors[0]
        differences_ND = rows_ND[sample.emotion == 0] - rows_ND[sample.emotion == 1]
        truth_D = normalize(truth_KD[0] - truth_KD[1], dim=0)
        about_zero_D, recentred_D = (
            torch.linalg.svd(rows, full_matrices=False).Vh[0]
            for rows in (differences_ND, differences_ND - differences_ND.mean(0))
        )
        assert abs(recentred_D @ truth_D) < 0.2
        assert differences_ND.mean(0) @ truth_D / differences_ND.mean(0).norm() >= 0.95
        assert abs(about_zero_D @ truth_D) < 0.95, "a nuisance as large takes its place even without re-centring"

    def test_labels_at_random_find_nothing(self):
        _, sample, truth_KD = planted(100)
        shuffled = sample.emotion[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
        fitter = MomentsFitter([0], 4, products=True)
        fitter.update(0, sample.vectors[0], torch.nn.functional.one_hot(shuffled))
        for estimator in ESTIMATORS:
            found = fit(estimator, fitter.result(), EMOTIONS, Sample(sample.vectors, shuffled))[0, :, 0]
            assert (found * truth_KD).sum(-1).abs().max() < 0.7, estimator

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_its_own_texts_read_higher_and_lengths_are_one(self, estimator):
        moments, sample, _ = planted(30)
        directions_KD = fit(estimator, moments, EMOTIONS, sample)[0, :, 0]
        means_KK = moments.mean[0] @ directions_KD.T
        others_K = (means_KK.sum(0) - means_KK.diagonal()) / 3
        assert (means_KK.diagonal() > others_K).all()
        torch.testing.assert_close(directions_KD.norm(dim=-1), torch.ones(4).double())


class TestAgainstTheObviousWay:
    def test_leace_reads_what_the_eraser_of_its_paper_reads(self):
        """Theorem 4.3 for a label of 0 and 1: the eraser takes out x's reading along pinv(cov) @ cov(x, z)."""
        moments, sample, _ = planted(200, size=8)
        rows_ND, label_N = sample.vectors[0], (sample.emotion == 1).double()
        centred_ND, centred_N = rows_ND - rows_ND.mean(0), label_N - label_N.mean()
        cross_D, covariance_DD = centred_N @ centred_ND / 800, centred_ND.T @ centred_ND / 800
        root_DD = torch.from_numpy(sqrtm(torch.linalg.inv(covariance_DD).numpy()))
        white_D = normalize(root_DD @ cross_D, dim=0)
        eraser_DD = torch.linalg.inv(root_DD) @ torch.outer(white_D, white_D) @ root_DD
        erased_ND = centred_ND - centred_ND @ eraser_DD.T
        assert (centred_N @ erased_ND).abs().max() < 1e-9, "erased: no linear probe is left anything"
        assert abs(normalize(eraser_DD[0], dim=0) @ leace(moments)[0, 1]) == pytest.approx(1, abs=1e-6)

    def test_the_probe_separates_what_can_be_separated(self):
        _, sample, _ = planted(50)
        readings_NK = sample.vectors[0] @ logistic(sample, 4)[0].T
        for k in range(4):
            own, others = readings_NK[sample.emotion == k, k], readings_NK[sample.emotion != k, k]
            assert (own[:, None] > others).double().mean() > 0.99

    def test_a_subspace_holds_the_second_way_in_which_an_emotion_shows(self):
        """One emotion has two faces; half of its texts show the one, half the other."""
        make = torch.Generator().manual_seed(0)
        rows_ND = 0.25 * torch.randn(300, 32, generator=make, dtype=torch.float64)
        emotion_N = torch.arange(3).repeat_interleave(100)
        rows_ND[:50, 0] += 2
        rows_ND[50:100, 1] += 2
        rows_ND[100:200, 2] += 2
        fitter = MomentsFitter([0], 3, products=True)
        fitter.update(0, rows_ND, torch.nn.functional.one_hot(emotion_N))
        basis_RD = class_pca(fitter.result(), Sample(rows_ND[None], emotion_N), 2)[0, 0]
        torch.testing.assert_close(basis_RD @ basis_RD.T, torch.eye(2).double())
        # About the others' mean, the faces are (2, 0, -1) and (0, 2, -1).
        faces_RD = torch.linalg.qr(torch.tensor([[2.0, 0.0, -1.0], [0.0, 2.0, -1.0]]).double().T)[0].T
        assert (basis_RD[:, :3] @ faces_RD.T).square().sum() > 1.8, "of 2, were both in it exactly"


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


class TestFromAModel:
    """Blocks that add nothing, so that the truth is known exactly: what was planted in the embeddings."""

    @pytest.fixture(scope="class")
    def truth(self):
        return torch.linalg.qr(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)))[0].T

    def model(self, truth_KD, dtype):
        model = tiny.llama()
        with torch.no_grad():
            for block in model.model.layers:
                block.self_attn.o_proj.weight.zero_()
                block.mlp.down_proj.weight.zero_()
            for marker, direction in zip((*MARKERS.values(), "%"), truth_KD, strict=True):
                model.model.embed_tokens.weight[tiny.tokenizer().convert_tokens_to_ids(marker)] = 2 * direction
        return model.to(dtype)

    def texts(self, n: int = 60) -> list[LabelledText]:
        """The emotion's marker, unevenly often, among letters and a nuisance that is as strong."""
        make = torch.Generator().manual_seed(1)
        found = []
        for number in range(3 * n):
            emotion = list(MARKERS)[number % 3]
            p_emotion, p_nuisance = 0.1 + 0.4 * torch.rand(2, generator=make)
            draw = torch.rand(40 + number % 50, generator=make)
            letters = [
                MARKERS[emotion]
                if x < p_emotion
                else "%"
                if x < p_emotion + p_nuisance
                else "abcdefgh"[int(x * 97) % 8]
                for x in draw
            ]
            found.append(LabelledText("x" + "".join(letters), emotion))
        return found

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("estimator", PATTERN)
    def test_every_layer_in_either_precision(self, truth, estimator, dtype):
        expected_KD = normalize(truth[:3] - truth[:3].mean(0), dim=-1).double()
        found = fit_directions(self.model(truth, dtype), tiny.tokenizer(), self.texts(), estimator=estimator,
                               from_token=1, tokens_per_batch=2048, progress=False)  # fmt: skip
        cosines_LK = (found.directions * expected_KD).sum(-1)
        assert cosines_LK.min() >= 0.95, cosines_LK

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_the_tokenizers_padding_side_changes_nothing(self, truth, estimator):
        model, found = self.model(truth, torch.float32), []
        for side in ("left", "right"):
            tokenizer = tiny.tokenizer()
            tokenizer.padding_side = side
            found.append(fit_directions(model, tokenizer, self.texts(20), estimator=estimator, progress=False))
        assert torch.equal(found[0].directions, found[1].directions)

    def test_a_subspaces_further_directions_are_emotions_of_their_own(self, truth):
        vectors = extract(self.model(truth, torch.float32), tiny.tokenizer(), self.texts(20), ["xabc abc", "xhgf abc"],
                          estimator="class_pca", rank=2, denoise_share=0.0, progress=False)  # fmt: skip
        assert vectors.emotions == ("desperate", "desperate.2", "calm", "calm.2", "sad", "sad.2")
        assert vectors.provenance.method.startswith("class pca of rank 2")
        products = vectors.directions[:, 0::2] * vectors.directions[:, 1::2]
        assert products.sum(-1).abs().max() < 1e-5

    def test_separation_is_how_much_higher_the_emotions_texts_read(self, truth):
        vectors = extract(self.model(truth, torch.float32), tiny.tokenizer(), self.texts(20), ["xabc abc", "xhgf abc"],
                          from_token=1, progress=False)  # fmt: skip
        raw = fit_directions(self.model(truth, torch.float32), tiny.tokenizer(), self.texts(20), from_token=1,
                             progress=False)  # fmt: skip
        expected_LK = (raw.shift * vectors.directions.double()).sum(-1).float()
        torch.testing.assert_close(vectors.separation, expected_LK)
        assert (vectors.separation > 0.2).all()


class TestErrors:
    def test_an_unknown_estimator(self):
        moments, sample, _ = planted(5)
        with pytest.raises(ValueError, match="estimator must be one of 'difference_of_means', .*got 'pca'"):
            fit("pca", moments, EMOTIONS, sample)

    def test_a_rank_that_the_estimator_does_not_have(self):
        moments, sample, _ = planted(5)
        with pytest.raises(ValueError, match="lda gives one direction per emotion; rank 2 needs"):
            fit("lda", moments, EMOTIONS, sample, rank=2)

    def test_a_rank_above_the_texts(self):
        moments, sample, _ = planted(5)
        with pytest.raises(ValueError, match="a subspace of rank 6 needs as many texts of every emotion; one has 5"):
            class_pca(moments, sample, 6)

    @pytest.mark.parametrize("estimator", NEED_SAMPLE)
    def test_an_emotion_without_texts(self, estimator):
        moments, sample, _ = planted(5)
        empty = Moments(moments.layers, moments.count * torch.tensor([1, 0, 1, 1]), moments.sums, moments.products)
        with pytest.raises(ValueError, match="no text of 'calm' is left"):
            fit(estimator, empty, EMOTIONS, sample)
