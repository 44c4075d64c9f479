"""Draws docs/statistics.svg: one step of a rollout, as an always-valid test and as the usual one see it.

Usage: python docs/statistics_picture.py
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from serving.evidence.bounded import Tally, compare

RATE, MARGIN, ALPHA, USERS = 0.04, 0.03, 0.05, 20_000
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 430, 62, 16, 56, 46
RANGE = 0.06
FIRST = 200

Points = list[tuple[float, float]]


def step(seed: int) -> tuple[list[int], dict[str, list[float]]]:
    """Looks (users seen) and, at each, the ends of both intervals in an A/A step."""
    rng = np.random.default_rng(seed)
    arm, error = rng.random(USERS) < 0.5, rng.random(USERS) < RATE
    looks = sorted({round(FIRST * (USERS / FIRST) ** (k / 160)) for k in range(161)})
    ends: dict[str, list[float]] = {"low": [], "high": [], "z_low": [], "z_high": [], "estimate": []}
    for users in looks:
        seen, failed = arm[:users], error[:users]
        old, new = (Tally(int(side.sum()), float(failed[side].sum())) for side in (~seen, seen))
        found = compare(old, new, margin=MARGIN, alpha=ALPHA)
        assert found.low is not None and found.high is not None and found.estimate is not None
        half = 1.96 * math.sqrt(sum(side.mean * (1 - side.mean) / side.n for side in (old, new)))
        for name, value in zip(
            ends, (found.low, found.high, found.estimate - half, found.estimate + half, found.estimate), strict=True
        ):
            ends[name].append(value)
    return looks, ends


def misled() -> int:
    """The first seed whose usual interval leaves out the truth at a look in the middle, and later takes it back."""
    for seed in range(1000):
        looks, ends = step(seed)
        wrong = [look for look, low in zip(looks, ends["z_low"], strict=True) if low > 0]
        if len(wrong) >= 8 and 500 < wrong[0] < 2000 and wrong[-1] < 10_000:
            return seed
    raise AssertionError("no such step")


def place(users: float, effect: float) -> tuple[float, float]:
    x = LEFT + math.log(users / FIRST) / math.log(USERS / FIRST) * (WIDTH - LEFT - RIGHT)
    y = TOP + (RANGE - max(min(effect, RANGE), -RANGE)) / (2 * RANGE) * (HEIGHT - TOP - BOTTOM)
    return x, y


def path(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))


def line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = place(*start), place(*end)
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def draw() -> str:
    looks, ends = step(misled())
    wrong = [look for look, low in zip(looks, ends["z_low"], strict=True) if low > 0]
    passed = next(look for look, high in zip(looks, ends["high"], strict=True) if high < MARGIN)
    band = list(zip(looks, ends["high"], strict=True)) + list(zip(looks, ends["low"], strict=True))[::-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>An always-valid confidence sequence and a usual interval over the course of one A/A step</title>",
        "<style>text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#e3e3e3}.zero{stroke:#888}"
        ".margin{stroke:#b3261e;stroke-dasharray:6 4}.band{fill:#3b6fb6;fill-opacity:.18;"
        "stroke:#3b6fb6;stroke-width:1.5}"
        ".usual{fill:none;stroke:#c77700;stroke-width:1.5}.estimate{fill:none;stroke:#222;stroke-width:1.5}"
        ".red{fill:#b3261e}.blue{fill:#2a5796}.amber{fill:#9a5c00}.head{font-size:15px;font-weight:600}"
        ".mark{fill:none;stroke-width:2}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 20, "Two equal models, errors 4 %: what each look shows", "head"),
        text(LEFT, 42, "always-valid confidence sequence", "blue"),
        text(LEFT + 228, 42, "usual 95 % interval", "amber"),
        text(LEFT + 372, 42, "difference found"),
    ]
    for effect in (-0.06, -0.03, 0.0, 0.03, 0.06):
        kind = {0.0: "zero", MARGIN: "margin"}.get(effect, "grid")
        parts.append(line(kind, (FIRST, effect), (USERS, effect)))
        x, y = place(FIRST, effect)
        parts.append(text(x - 8, y + 4, f"{effect:+.0%}" if effect else "0", anchor="end"))
    for users in (200, 500, 1000, 2000, 5000, 10_000, 20_000):
        x, _ = place(users, 0)
        anchor = "end" if users == USERS else "middle"
        parts.append(text(x, HEIGHT - BOTTOM + 20, f"{users:,}", anchor=anchor))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "users seen (each look sees more)", anchor="middle"))
    parts.append(f'<polygon class="band" points="{path(band)}"/>')
    for name, kind in (("z_low", "usual"), ("z_high", "usual"), ("estimate", "estimate")):
        parts.append(f'<polyline class="{kind}" points="{path(list(zip(looks, ends[name], strict=True)))}"/>')
    x, y = place(wrong[0], 0.0)
    parts.append(f'<circle class="mark" stroke="#9a5c00" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    _, low = place(FIRST, -0.048)
    parts.append(f'<line stroke="#9a5c00" x1="{x:.1f}" y1="{y + 7:.1f}" x2="{x:.1f}" y2="{low + 18:.1f}"/>')
    parts.append(text(x + 8, low, f"looked at here ({wrong[0]:,} users), the usual one", "amber"))
    parts.append(text(x + 8, low + 16, "calls equal models different", "amber"))
    x, y = place(passed, MARGIN)
    parts.append(f'<circle class="mark" stroke="#2a5796" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    parts.append(f'<line stroke="#2a5796" x1="{x + 3:.1f}" y1="{y - 6:.1f}" x2="{x + 18:.1f}" y2="{y - 40:.1f}"/>')
    parts.append(text(x + 20, y - 58, f"{passed:,} users: below the margin,", "blue"))
    parts.append(text(x + 20, y - 42, "shown to be not worse, passes", "blue"))
    x, y = place(USERS, MARGIN)
    parts.append(text(x, y - 6, "margin", "red", "end"))
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    target = Path(__file__).with_name("statistics.svg")
    target.write_text(draw(), encoding="utf-8")
    print(f"written: {target}")
