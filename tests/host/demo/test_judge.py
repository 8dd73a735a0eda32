"""The judge that ships: accurate on drawings it never saw, blind to nothing it should reject; the Frechet distance."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from systolora.assets import judge_file
from systolora.demo.judge import NO_SHAPE, Judge, concept_share, frechet_distance, load_judge, train_judge
from systolora.demo.scribbles import make_scribbles
from systolora.demo.sprite_model import make_autoencoder
from systolora.demo.sprites import BASE_SHAPES, CONCEPTS, SHAPES, make_sprites


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_the_shipped_judge_reads_new_drawings(judge):
    drawn = make_sprites(1000, 31_337, SHAPES)
    accuracy = judge.prompt_accuracy(drawn.pictures, drawn.sprites)
    assert accuracy.shape >= 0.99
    assert accuracy.colour >= 0.99
    assert accuracy.background >= 0.99


def test_the_shipped_judge_rejects_scribbles(judge):
    for one_ink in (False, True):
        scribbles = make_scribbles(400, 31_338, one_ink)
        assert judge.concept_share(scribbles, NO_SHAPE) >= 0.9
        assert max(judge.concept_share(scribbles, concept) for concept in CONCEPTS) <= 0.02


@pytest.mark.parametrize("concept", CONCEPTS)
def test_concept_share_is_near_one_for_the_concept_and_near_zero_for_the_rest(concept):
    assert concept_share(make_sprites(200, 5, (concept,)).pictures, concept) >= 0.98
    assert concept_share(make_sprites(400, 6, BASE_SHAPES).pictures, concept) <= 0.01


def test_concept_share_counts_pictures(judge):
    hearts, stars = make_sprites(30, 1, ("heart",)).pictures, make_sprites(10, 1, ("star",)).pictures
    assert judge.concept_share(np.concatenate([hearts, stars]), "heart") == pytest.approx(0.75, abs=0.026)


def test_prompt_accuracy_falls_when_the_prompts_are_others(judge):
    drawn, other = make_sprites(300, 1), make_sprites(300, 2)
    accuracy = judge.prompt_accuracy(drawn.pictures, other.sprites)
    assert accuracy.shape < 0.3 and accuracy.colour < 0.3 and accuracy.background < 0.35


def test_verdicts_do_not_depend_on_the_other_pictures(judge):
    pictures = make_sprites(8, 3, SHAPES).pictures
    together = judge.look(pictures)
    alone = np.concatenate([judge.look(picture[None]).features for picture in pictures])
    np.testing.assert_allclose(together.features, alone, rtol=1e-4, atol=1e-4)


def test_frechet_distance_orders_sets_of_pictures(judge):
    def features(pictures):
        return judge.look(pictures).features

    first = features(make_sprites(300, 1, ("heart",)).pictures)
    same_kind = frechet_distance(first, features(make_sprites(300, 2, ("heart",)).pictures))
    other_kind = frechet_distance(first, features(make_sprites(300, 2, ("robot",)).pictures))
    scribbles = frechet_distance(first, features(make_scribbles(300, 2)))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6 * other_kind)
    assert 10 * same_kind < min(other_kind, scribbles)


def test_frechet_distance_of_known_gaussians():
    # With diagonal covariances s^2 and t^2 it is |mean gap|^2 + sum (s - t)^2; these points have exactly those.
    base = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float) * np.sqrt(3 / 4)
    a, b = base * [1, 2], base * [3, 5] + [10, 0]
    assert frechet_distance(a, b) == pytest.approx(100 + (1 - 3) ** 2 + (2 - 5) ** 2)


def test_training_learns_and_leaves_torchs_random_state_alone():
    torch.manual_seed(7)
    autoencoder = make_autoencoder().eval()
    before = torch.get_rng_state()
    lines: list[str] = []
    judge = train_judge(autoencoder, seed=0, steps=80, pictures=1000, report=lines.append)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = make_sprites(200, 99, SHAPES)
    assert judge.prompt_accuracy(drawn.pictures, drawn.sprites).background > 0.8
    assert any("loss" in line for line in lines)


def test_a_saved_judge_loads_equal_and_other_labels_are_refused(tmp_path, judge):
    judge.save(tmp_path / "copy.safetensors")
    pictures = make_sprites(20, 1).pictures
    copy = load_judge(tmp_path / "copy.safetensors")
    assert np.array_equal(copy.look(pictures).features, judge.look(pictures).features)
    save_file(load_file(judge_file()), tmp_path / "other.safetensors", metadata={"labels": "cat,dog"})
    with pytest.raises(ValueError, match="other labels"):
        load_judge(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda judge: judge.look(np.zeros((2, 8, 8, 3), np.uint8)), r"uint8 \(2, 8, 8, 3\)"),
        (lambda judge: judge.look(np.zeros((2, 16, 16, 3))), "float64"),
        (lambda judge: judge.concept_share(make_sprites(1, 0).pictures, "dragon"), "does not know 'dragon'"),
        (lambda judge: judge.concept_share(make_sprites(0, 0).pictures, "heart"), "no pictures"),
        (lambda judge: judge.prompt_accuracy(make_sprites(2, 0).pictures, ()), "2 pictures and 0 desc"),
        (lambda judge: frechet_distance(np.zeros((1, 4)), np.zeros((5, 4))), "two rows or more"),
        (lambda judge: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))), "equal width"),
    ],
)
def test_bad_input_gets_one_clear_line(judge, call, message):
    with pytest.raises(ValueError, match=message):
        call(judge)
