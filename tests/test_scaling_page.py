"""docs/scaling.md: its rates are the measured ones, its defaults the code's, and its arithmetic comes out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pipelines.corpus.config import CorpusConfig
from pipelines.curate.config import DedupConfig
from pipelines.curate.runs import PAIR
from serving.config import LimitsConfig, ServingConfig
from serving.control.ray_serve import HEALTH_PERIOD_S

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
GIB, MIB = 1 << 30, 1 << 20
HOUR = 3600.0

RATES = {"rules": 1836 * 1e3, "minhash": 3281, "decontamination": 9643, "tokens": 2.79e6}
CORES = 1000 * 64
INCOMING, KEPT = 315e12, 63e12
COMPARED = 35e9
EXCHANGED = 300 * COMPARED
PREFIX = 5_500


def core_hours(amount: float, rate: float) -> float:
    return amount / rate / HOUR


def requests(part_bytes: float, range_bytes: float) -> float:
    return 6 * (INCOMING / part_bytes) * (EXCHANGED / range_bytes)


def best_interval_s(write_s: float, failure_s: float) -> float:
    """Young's: the time between checkpoints that loses least."""
    return math.sqrt(2 * write_s * failure_s)


def lost_share(write_s: float, failure_s: float) -> float:
    interval = best_interval_s(write_s, failure_s)
    return write_s / interval + interval / 2 / failure_s


FAILURES_10K, FAILURES_500 = 365.25 * 24 * HOUR / 10_000, 365.25 * 24 * HOUR / 500
LARGE = requests(4 * GIB, 8 * GIB)
CASES = [
    # (what comes out, how the page says it, as a number of the same unit)
    (15e12 * 4.2 / 1e12, "= 63 TB", 63),
    (5 * 63, "315 TB come in", 315),
    (INCOMING / 3e3 / 1e9, "105 G documents", 105),
    (core_hours(INCOMING, RATES["rules"]), "49,000 core-hours | 46 min", 49_000),
    (core_hours(INCOMING, RATES["rules"]) / CORES * 60, "49,000 core-hours | 46 min", 46),
    (core_hours(COMPARED, RATES["minhash"]), "3,000 core-hours | 3 min", 3_000),
    (core_hours(21e9, RATES["decontamination"]), "600 core-hours | 1 min", 600),
    (core_hours(KEPT, RATES["tokens"]), "6,300 core-hours | 6 min", 6_300),
    (4 * INCOMING / (1000 * 3.1e9) / 60, "| 7 min, where", 7),
    (1000 * 3.1e9 / (8 * MIB), "370,000 GETs/s", 370_000),
    (1000 * 3.1e9 / (8 * MIB) / PREFIX, "68 prefixes", 68),
    (INCOMING / (PREFIX * 8 * MIB) / HOUR, "in 1.9 hours", 1.9),
    (INCOMING / (32 * MIB) / 1e6, "9.4 M parts", 9.4),
    (INCOMING / (4 * GIB), "there are 73,000", 73_000),
    (EXCHANGED / 1e12, "= 10.5 TB", 10.5),
    (EXCHANGED / (32 * MIB), "313,000", 313_000),
    (requests(32 * MIB, 32 * MIB), "1.8 × 10¹³", 1.8e13),
    (LARGE / 1e6, "= 534 M", 534),
    (LARGE * 0.0004 / 1000, "214 $", 214),
    (LARGE / (4 * PREFIX) / HOUR, "6.7 hours", 6.7),
    (4 * LARGE / (4 * PREFIX) / HOUR, "take 27 hours", 27),
    (15e12 / 8192 / 1e9, "1.8 G blocks", 1.8),
    (6 * 8e9 * 15e12, "7.2 × 10²³", 7.2e23),
    (6 * 8e9 * 15e12 / (0.4 * 989e12) / HOUR, "500,000 GPU-hours", 500_000),
    (500_000 / 80_000, "6.3 hours on 80,000 GPUs", 6.3),
    (500_000 / 1000 / 24, "21 days on 1,000", 21),
    (80_000 / 2048, "39 GPUs a copy", 39),
    (FAILURES_10K / 60, "every 53 min", 53),
    (FAILURES_500 / HOUR, "every 17.5 h", 17.5),
    (best_interval_s(10, FAILURES_10K) / 60, "= 4.2 min, losing 8 %", 4.2),
    (100 * lost_share(10, FAILURES_10K), "= 4.2 min, losing 8 %", 8),
    (best_interval_s(10, FAILURES_500) / 60, "= 19 min, 2 %", 19),
    (100 * lost_share(10, FAILURES_500), "= 19 min, 2 %", 2),
    ((80_000 / 500 + 60) / 60, "in 3.7 min", 3.7),
    (100 * 3.7 / 53, "7 % more", 7),
    (10_000 * (10e3 + 64 * 2e3) / 1e9, "= 1.4 GB", 1.4),
    (100_000 * 1.00e-3 / 0.6, "167 at 60 %", 167),
    (1e6 / 170, "5,900 each", 5_900),
    (500 * 100_000 / 5_000, "10,000 GPUs. Ray Serve", 10_000),
    (10_000 / HEALTH_PERIOD_S, "5,000 calls/s", 5_000),
    (10e6 * 200 / 1e9, "2 GB a step", 2),
]


@pytest.mark.parametrize(("value", "shown", "number"), CASES, ids=[each[1] for each in CASES])
def test_the_arithmetic_comes_out(value: float, shown: str, number: float) -> None:
    assert shown in PAGE
    rounded = 0.5 if isinstance(number, int) and number < 10 else 0.0
    assert value == pytest.approx(number, rel=0.06, abs=rounded)


def test_rates_with_a_star_are_measured_ones() -> None:
    rates = re.findall(r"([\d.,]+) (documents|MB|ms)[^|*\n]{0,60}\*", PAGE)
    assert len(rates) >= 5
    assert [number for number, unit in rates if f"{number} {unit}" not in MEASURED] == []
    for stage, rate in (("rules", "1,836"), ("MinHash", "3,281"), ("decontamination", "9,643"), ("tokens", "2.79")):
        assert f"| {stage} | {rate} " in PAGE


def test_defaults_that_are_named_are_the_codes() -> None:
    assert CorpusConfig.model_fields["part_bytes"].default == 32 * MIB
    assert DedupConfig.model_fields["memory_bytes"].default == 32 * MIB
    limits, fields = LimitsConfig(), ServingConfig.model_fields
    assert f"`limits.max_connections` ({limits.max_connections:,}) and `max_ongoing` ({limits.max_ongoing})" in PAGE
    assert f"| `serving.gateways` | {fields['gateways'].default} a node" in PAGE
    assert PAIR.itemsize == 16
