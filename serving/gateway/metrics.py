"""Counters and histograms in the Prometheus text format 0.0.4; plain data, one event loop, no locks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds in seconds, from a cached first token to a long answer."""

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number for each set of labels that only grows."""

    kind = "counter"

    def __init__(self, name: str, description: str) -> None:
        self.name, self.description = name, description
        self.values: dict[Labels, float] = {}

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Count ``amount`` more."""
        key = tuple(sorted(labels.items()))
        self.values[key] = self.values.get(key, 0.0) + amount

    def lines(self) -> list[str]:
        """The samples as text."""
        return [f"{self.name}{_labels(dict(key))} {_number(value)}" for key, value in sorted(self.values.items())]


class Histogram:
    """Observations counted below fixed bounds, for each set of labels."""

    kind = "histogram"

    def __init__(self, name: str, description: str, bounds: tuple[float, ...] = LATENCY_BOUNDS) -> None:
        self.name, self.description, self.bounds = name, description, bounds
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}

    def observe(self, value: float, **labels: str) -> None:
        """Count one observation."""
        key = tuple(sorted(labels.items()))
        counts = self.counts.setdefault(key, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[key] = self.sums.get(key, 0.0) + value

    def lines(self) -> list[str]:
        """The samples as text; buckets are cumulative, as the format asks."""
        result = []
        for key, counts in sorted(self.counts.items()):
            running = 0
            for bound, count in zip((*map(_number, self.bounds), "+Inf"), counts, strict=True):
                running += count
                result.append(f"{self.name}_bucket{_labels({**dict(key), 'le': bound})} {running}")
            result.append(f"{self.name}_sum{_labels(dict(key))} {_number(self.sums[key])}")
            result.append(f"{self.name}_count{_labels(dict(key))} {running}")
        return result


class GatewayMetrics:
    """What one gateway counts."""

    def __init__(self) -> None:
        self.requests = Counter("raymill_requests_total", "Requests answered, by variant, endpoint and HTTP status.")
        self.errors = Counter("raymill_request_errors_total", "Requests that failed, by variant and kind.")
        self.retries = Counter("raymill_request_retries_total", "Requests tried again on another engine, by variant.")
        self.assignments = Counter("raymill_assignments_total", "Assignments by variant; sticky where a key decided.")
        self.ejections = Counter("raymill_engine_ejections_total", "Engines taken out of rotation, by address.")
        self.latency = Histogram("raymill_request_seconds", "Seconds from a request's arrival to its answer's end.")
        self.first_token = Histogram(
            "raymill_time_to_first_token_seconds", "Seconds from arrival to the first bytes of a streamed answer."
        )

    def render(self) -> str:
        """The page that Prometheus scrapes."""
        lines = []
        for metric in vars(self).values():
            lines.append(f"# HELP {metric.name} {metric.description}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines.extend(metric.lines())
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escape(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
