"""Plans: what they promise is what simulated steps do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from serving.evidence import bounded, means, quantiles
from serving.evidence.bounded import Tally
from serving.evidence.means import Moments
from serving.evidence.planning import (
    ASSUMED_LOG_SECONDS,
    ASSUMED_RATE,
    Design,
    assumed_latencies,
    detectable_harm,
    plan,
    resolution,
)
from serving.evidence.quantiles import Sketch

DESIGN = Design(share=0.25, alpha=0.0125)
TYPICAL: dict[str, tuple[Tally | Moments | Sketch, float]] = {
    "rate": (ASSUMED_RATE, 0.02),
    "mean": (ASSUMED_LOG_SECONDS, 0.2),
    "quantile": (assumed_latencies(), 0.3),
}


@pytest.mark.parametrize("kind", list(TYPICAL))
def test_a_candidate_like_the_baseline_passes_at_the_planned_units_as_often_as_promised(kind: str) -> None:
    typical, margin = TYPICAL[kind]
    expected = plan(typical, margin, DESIGN, relative=kind == "mean")
    assert expected.units is not None and expected.candidate_units is not None
    rng = np.random.default_rng(7)
    runs, passed = 300, 0
    arms = expected.units - expected.candidate_units, expected.candidate_units
    for _ in range(runs):
        if kind == "rate":
            rate = (ASSUMED_RATE.total + 0.5) / (ASSUMED_RATE.n + 1)
            tallies = [Tally(n, float(rng.binomial(n, rate))) for n in arms]
            log_e = bounded.compare(*tallies, margin=margin, alpha=DESIGN.alpha).log_e_pass
        elif kind == "mean":
            samples = [rng.normal(0.0, 0.5, n) for n in arms]
            sums = [Moments(part.size, float(part.mean()), float(part.var() * part.size)) for part in samples]
            log_e = means.compare(*sums, margin=margin, alpha=DESIGN.alpha, relative=True).log_e_pass
        else:
            drawn = [rng.lognormal(0.0, 0.5, n) for n in arms]
            sketches = []
            for part in drawn:
                index, counts = np.unique([quantiles.bin_of(value) for value in part], return_counts=True)
                sketches.append(
                    Sketch(part.size, dict(zip(index.tolist(), counts.astype(float).tolist(), strict=True)))
                )
            log_e = quantiles.compare(*sketches, margin=margin, alpha=DESIGN.alpha).log_e_pass
        passed += log_e >= math.log(1 / DESIGN.alpha)
    # two standard errors of 300 runs below 0.8; not so many more that users are wasted
    assert 0.75 <= passed / runs <= 0.97


@pytest.mark.parametrize("kind", list(TYPICAL))
def test_the_resolution_at_the_planned_units_is_the_margin(kind: str) -> None:
    typical, margin = TYPICAL[kind]
    expected = plan(typical, margin, DESIGN, relative=kind == "mean")
    assert expected.units is not None
    found = resolution(typical, expected.units, DESIGN)
    assert (found if kind == "rate" else math.expm1(found)) == pytest.approx(margin, rel=0.03)


def test_more_units_see_smaller_effects() -> None:
    for typical, _ in TYPICAL.values():
        for distance in (resolution, detectable_harm):
            found = [distance(typical, units, DESIGN) for units in (4_000, 16_000, 64_000, 256_000)]
            assert found == sorted(found, reverse=True)


def test_the_rate_gives_the_duration_and_whether_it_is_in_time() -> None:
    slow = Design(share=0.5, alpha=0.0125, units_per_second=1.0, maximum_seconds=3600)
    quick = Design(share=0.5, alpha=0.0125, units_per_second=100.0, maximum_seconds=3600)
    late, early = (plan(ASSUMED_RATE, 0.01, design) for design in (slow, quick))
    assert late.units == early.units and late.seconds == late.units
    assert (late.in_time, early.in_time) == (False, True)


def test_the_smaller_side_needs_its_minimum_too() -> None:
    expected = plan(ASSUMED_LOG_SECONDS, 10.0, Design(share=0.01, alpha=0.05, minimum_units=500), relative=True)
    assert expected.units is not None and expected.units >= 50_000
    assert expected.candidate_units == math.ceil(expected.units * 0.01)


def test_superiority_is_not_expected_of_a_candidate_like_the_baseline() -> None:
    expected = plan(ASSUMED_RATE, 0.0, Design(share=0.5, alpha=0.05, units_per_second=10.0, maximum_seconds=86_400))
    assert (expected.units, expected.seconds, expected.in_time) == (None, None, False)


def test_a_baseline_without_errors_is_not_taken_to_be_free_of_them() -> None:
    expected = plan(Tally(1000, 0.0), 0.01, Design(share=0.5, alpha=0.05))
    assert expected.units is not None and expected.units > 500
