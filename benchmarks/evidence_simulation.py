"""How often a rollout's tests err when somebody looks after every user, beside the usual z-test looked at as often.

Usage: python benchmarks/evidence_simulation.py [--runs 10000] [--quick] [--only rates|means|quantiles|ratio|power]

Every line is a step of a rollout simulated ``--runs`` times at alpha = 0.05. "harm" is the share of runs that ever
alleged a harm beyond the true one, "missed" the share whose confidence sequence ever left out the truth (coverage is 1
minus it), "z-test" the share in which the fixed-sample test ever rejected it. The last table plays steps of the planned
size and counts how often a candidate like the baseline has passed by then.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

# Run as a script, this folder comes first, and in it serving.py hides the package ``serving``.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from serving.evidence import bounded, means, quantiles  # noqa: E402
from serving.evidence.bounded import Tally  # noqa: E402
from serving.evidence.means import Moments  # noqa: E402
from serving.evidence.planning import ASSUMED_LOG_SECONDS, ASSUMED_RATE, Design, assumed_latencies, plan  # noqa: E402
from serving.evidence.quantiles import Sketch  # noqa: E402
from serving.evidence.simulation import (  # noqa: E402
    Draw,
    Errors,
    Scenario,
    errors_of_means,
    errors_of_quantiles,
    errors_of_rates,
    errors_of_ratio,
)

ALPHA = 0.05
PARTS = ("rates", "means", "quantiles", "ratio", "power")
Z95 = 1.6448536269514722


def rate(p: float) -> Draw:
    return lambda rng, shape: (rng.random(shape) < p).astype(float)


def users_with_trouble(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Failed share of a user's requests where engines fail at random, retries save most of them, what falls back to
    the other variant counts as failed, and some requests are overridden and do not count."""
    asked = rng.geometric(0.3, shape)
    kept = np.maximum(rng.binomial(asked, 0.9), 1)
    broken = rng.binomial(kept, 0.1)
    return (broken - rng.binomial(broken, 0.8)) / kept


def seconds_with_trouble(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Log of seconds where one answer in ten was retried and took the time of two."""
    first, second = rng.lognormal(-1, 0.5, shape), rng.lognormal(-1, 0.5, shape)
    return np.log(first + np.where(rng.random(shape) < 0.1, second, 0.0))


def purchases(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (rng.random(shape) < 0.05) * rng.lognormal(0.0, 1.0, shape)


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape)


def exponential(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_exponential(shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.lognormal(-1.0, 0.7, shape)


def pareto(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Infinite variance."""
    return 0.1 / rng.random(shape) ** (1 / 1.2)


RATES = (
    Scenario("rate 10 %", rate(0.1), 0.1),
    Scenario("rate 0.1 %", rate(0.001), 0.001, users=5000, every=2),
    Scenario("rate 1 %, split 1:99", rate(0.01), 0.01, share=0.01, users=5000, every=2),
    Scenario("rate 1 %, truly worse by the margin", rate(0.01), 0.01, effect=0.02, candidate=rate(0.03)),
    Scenario("failed share, with retries, fallbacks and overrides", users_with_trouble, 0.02, share=0.25),
)
MEANS = (
    Scenario("mean of normal values", normal, 0.0),
    Scenario("mean of log seconds, with retries, 5:95", seconds_with_trouble, 0.0, share=0.05),
    Scenario("mean of exponential values, 5:95", exponential, 1.0, share=0.05),
    Scenario("mean of purchases by 5 % of users, 20:80", purchases, 0.0, share=0.2, users=4000, every=2),
)
QUANTILES = (
    Scenario("p95, log-normal", lognormal, math.exp(-1 + 0.7 * Z95), every=4),
    Scenario("p95, Pareto of infinite variance, 5:95", pareto, 0.1 * 0.05 ** (-1 / 1.2), share=0.05, every=4),
)


def alarms(runs: int, parts: list[str]) -> list[Errors]:
    found = []
    measures = {
        "rates": (errors_of_rates, RATES),
        "means": (errors_of_means, MEANS),
        "quantiles": (errors_of_quantiles, QUANTILES),
    }
    for part in parts:
        if part not in measures:
            continue
        measure, scenarios = measures[part]
        for seed, scenario in enumerate(scenarios):
            began = time.monotonic()
            errors = measure(scenario, runs, ALPHA, 100 + seed)
            found.append(errors)
            print(
                f"{errors.scenario:<52}{errors.harm / runs:>8.2%}{errors.missed / runs:>8.2%}{errors.naive:>8.1%}"
                f"{time.monotonic() - began:>7.0f} s",
                flush=True,
            )
    return found


def passes(kind: str, design: Design, margin: float, runs: int) -> tuple[int, float]:
    """Planned units, and the share of steps of that size, looked at 20 times, that have passed by then."""
    typical: dict[str, Tally | Moments | Sketch] = {
        "rate": ASSUMED_RATE,
        "mean": ASSUMED_LOG_SECONDS,
        "p95": assumed_latencies(),
    }
    expected = plan(typical[kind], margin, design, relative=kind == "mean")
    assert expected.units is not None and expected.candidate_units is not None
    rng = np.random.default_rng(17)
    sizes = expected.units - expected.candidate_units, expected.candidate_units
    threshold = math.log(1 / design.alpha)
    passed = 0
    for _ in range(runs):
        if kind == "rate":
            drawn = [(rng.random(n) < 0.01).astype(float) for n in sizes]
        else:
            drawn = [rng.normal(0.0, 0.5, n) for n in sizes]
        passed += any(
            evidence(kind, [part[: math.ceil(part.size * look / 20)] for part in drawn], margin, design) >= threshold
            for look in range(20, 0, -1)
        )
    return expected.units, passed / runs


def evidence(kind: str, drawn: list[np.ndarray], margin: float, design: Design) -> float:
    if kind == "rate":
        old, new = (Tally(part.size, float(part.sum())) for part in drawn)
        return bounded.compare(old, new, margin=margin, alpha=design.alpha).log_e_pass
    if kind == "mean":
        sums = [Moments(part.size, float(part.mean()), float(part.var() * part.size)) for part in drawn]
        return means.compare(sums[0], sums[1], margin=margin, alpha=design.alpha, relative=True).log_e_pass
    sketches = []
    for part in drawn:
        bins, counts = np.unique([quantiles.bin_of(value) for value in np.exp(part)], return_counts=True)
        sketches.append(Sketch(part.size, dict(zip(bins.tolist(), counts.astype(float).tolist(), strict=True))))
    return quantiles.compare(sketches[0], sketches[1], margin=margin, alpha=design.alpha).log_e_pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="simulated steps a line")
    parser.add_argument("--quick", action="store_true", help="300 runs a line, for a smoke test")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave out the other parts; may be repeated")
    arguments = parser.parse_args()
    parts = arguments.only or list(PARTS)
    runs = 300 if arguments.quick else arguments.runs
    print(f"{runs} runs a line, alpha {ALPHA:.0%}\n{'':<52}{'harm':>8}{'missed':>8}{'z-test':>8}")
    found = alarms(runs, parts)
    for share in (0.5, 0.01) if "ratio" in parts else ():
        alleged = errors_of_ratio(share, share, 2000, runs, ALPHA, 31)
        found.append(Errors(f"sample ratio, {share:.0%} promised", runs, round(alleged * runs), 0, math.nan, ALPHA))
        print(f"{found[-1].scenario:<52}{alleged:>8.2%}")
    print(
        f"\nplanned for a chance of 80 %, alpha 0.25 %, candidate like the baseline\n{'':<52}{'units':>8}{'passed':>8}"
    )
    powers = {}
    for kind, margin in (("rate", 0.01), ("mean", 0.2), ("p95", 0.3)) if "power" in parts else ():
        for share in (0.5, 0.05):
            units, power = passes(kind, Design(share, 0.0025), margin, min(max(runs // 50, 40), 200))
            powers[f"{kind}, margin {margin}, {share:.0%} on the candidate"] = power
            print(f"{kind + f', margin {margin}, {share:.0%} on the candidate':<52}{units:>8}{power:>8.0%}", flush=True)
    results = [
        {
            "name": each.scenario,
            "ours": max(each.harm, each.missed) / runs,
            "peer": "z-test",
            "peer_value": None if math.isnan(each.naive) else each.naive,
            "unit": "share of A/A steps with a false alarm",
            "ratio": None if math.isnan(each.naive) else each.naive / max(each.harm, each.missed, 1) * runs,
        }
        for each in found
    ]
    bad = [each.scenario for each in found if max(each.harm, each.missed) > ALPHA * runs * (1 if runs > 5000 else 1.5)]
    versions = {name: version(name) for name in ("numpy", "scipy")}
    machine = f"{platform.machine()}, one core"
    print(
        json.dumps(
            {
                "benchmark": "evidence_simulation",
                "results": results,
                "power": powers,
                "machine": machine,
                "versions": versions,
            }
        )
    )
    if bad:
        print("above alpha: " + ", ".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
