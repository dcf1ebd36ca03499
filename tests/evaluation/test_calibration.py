"""Scores as probabilities, on numbers that a person can work out and on worlds that are known."""

import numpy as np
import pytest
from scipy.special import expit, logit

from fisher_ld.evaluation.calibration import (
    MOST,
    Scaling,
    Scored,
    calibrated,
    described,
    fit,
    log_loss,
    measured,
    reliability,
)


def drawn(n, spread=1.0, centre=0.0, seed=0):
    """Logits, and labels that they are right about."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(centre, spread, n)
    return logits, (rng.random(n) < expit(logits)).astype(float)


def test_log_loss_by_hand():
    """p = 1/2 for one that was liked, 3/4 for one that was not: -(log 1/2 + log 1/4) / 2 = 1.5 log 2."""
    assert log_loss(np.array([0.0, np.log(3)]), np.array([1.0, 0.0])) == pytest.approx(1.5 * np.log(2))
    assert log_loss(np.array([800.0]), np.array([0.0])) == pytest.approx(800)  # no overflow


def test_calibration_error_by_hand():
    """In the order of p: 0.1, 0.3 with one like (0.2 against 0.5), and 0.6, 0.8 with two (0.7 against 1)."""
    p, liked = np.array([0.8, 0.1, 0.6, 0.3]), np.array([1.0, 0.0, 1.0, 1.0])
    low, high = reliability(p, liked, bins=2)
    assert (low["predicted"], low["liked"], low["n"]) == (pytest.approx(0.2), 0.5, 2)
    assert (high["predicted"], high["liked"], high["n"]) == (pytest.approx(0.7), 1.0, 2)
    assert low["by_chance"] == pytest.approx(np.sqrt(2 / np.pi) * np.sqrt((0.09 + 0.21) / 2 / 2))
    found = measured(Scored(logit(p), liked), Scaling())  # bins of one candidate: 0.1, 0.7, 0.4, 0.2
    assert found["ece"] == pytest.approx((0.1 + 0.7 + 0.4 + 0.2) / 4)


def test_bins_of_unlike_size_count_by_their_size():
    p = np.full(3, 0.5)
    assert [row["n"] for row in reliability(p, p, bins=2)] == [2, 1]
    scored = Scored(np.zeros(11), np.array([1.0, 1, *[0] * 9]))  # 10 bins, the first of two
    assert measured(scored, Scaling())["ece"] == pytest.approx(0.5)
    assert measured(Scored(scored.z, scored.liked), Scaling(bias=100.0))["ece"] == pytest.approx(9 / 11)


def test_right_probabilities_have_an_error_near_that_of_chance():
    found = [measured(Scored(*drawn(20_000, seed=seed)), Scaling()) for seed in range(20)]
    errors, by_chance = (np.mean([f[key] for f in found]) for key in ("ece", "ece_by_chance"))
    assert errors < 0.01 and errors == pytest.approx(by_chance, rel=0.1)
    assert measured(Scored(*drawn(20_000)), Scaling(temperature=2.0))["ece"] > 0.05


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_scaled_logits_give_their_temperature_back(temperature):
    logits, liked = drawn(100_000)
    assert fit(Scored(temperature * logits, liked), biased=False).temperature == pytest.approx(temperature, rel=0.02)
    found = fit(Scored(temperature * (logits - 1.5), liked), biased=True)
    assert (found.temperature, found.bias) == (pytest.approx(temperature, rel=0.02), pytest.approx(1.5, abs=0.03))


def test_a_share_of_likes_that_changes_needs_the_bias():
    """Right where a fifth and more is liked; asked where a twentieth is."""
    logits, liked = drawn(100_000, centre=-1.6)
    rng, share = np.random.default_rng(1), liked.mean()
    rate = 0.05 / 0.95 * (1 - share) / share  # of the likes, that stay
    stay = (liked == 0) | (rng.random(len(liked)) < rate)
    asked = Scored(logits[stay], liked[stay])
    assert asked.liked.mean() == pytest.approx(0.05, abs=0.002)
    alone, both = fit(asked, biased=False), fit(asked, biased=True)
    assert alone.temperature < 0.8  # sharpened, though nothing was too flat
    assert both.temperature == pytest.approx(1, rel=0.03)
    assert both.bias == pytest.approx(logit(0.05) - logit(share), abs=0.05)
    found = calibrated(asked, asked)
    assert found["with_bias"]["ece"] < 0.002 < found["temperature"]["ece"] < found["as_scored"]["ece"]
    # and back to the first share, by what `calibration` says of another one
    again = Scaling(both.temperature, both.bias + logit(share) - logit(asked.liked.mean()))
    assert measured(Scored(logits, liked), again)["ece"] < 0.01


def test_scores_that_tell_nothing_or_the_contrary_become_the_share():
    liked = (np.random.default_rng(0).random(5000) < 0.05).astype(float)
    found = fit(Scored(-2 * liked, liked), biased=True)
    assert found.temperature == pytest.approx(MOST)
    share = liked.mean()
    constant = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert measured(Scored(-2 * liked, liked), found)["log_loss"] == pytest.approx(constant, rel=0.01)
    certain = Scored(2 * liked - 1, liked)
    found = fit(certain, biased=True)
    assert 1 / MOST <= found.temperature < 0.2 and measured(certain, found)["log_loss"] < 1e-4


def test_what_is_fitted_is_fitted_on_validation_alone():
    validation, test = Scored(*drawn(5000, seed=1)), Scored(*drawn(5000, seed=2))
    other = Scored(test.z, 1 - test.liked)
    for name in ("as_scored", "temperature", "with_bias"):
        a, b = (calibrated(validation, lists)[name] for lists in (test, other))
        assert (a["temperature"], a["bias"]) == (b["temperature"], b["bias"]) and a["log_loss"] < b["log_loss"]
    assert calibrated(validation, test)["as_scored"]["temperature"] == 1


def test_the_log_loss_of_a_constant(tiny):
    found = described(tiny.lists)
    assert (found["lists"], found["share"]) == (4, pytest.approx(1 / 3))
    assert found["log_loss"] == pytest.approx(-(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3)
