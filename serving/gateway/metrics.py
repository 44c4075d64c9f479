"""Counters and histograms in the Prometheus text format 0.0.4; plain data, one event loop, no locks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds in seconds, from a cached first token to a long answer."""

TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds in seconds for each token."""

Values = tuple[str, ...]


class Counter:
    """A number for each set of label values that only grows."""

    kind = "counter"

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.name, self.description, self.labels = name, description, labels
        self.values: dict[Values, float] = {}

    def add(self, *values: str, amount: float = 1) -> None:
        """Count ``amount`` more."""
        self.values[values] = self.values.get(values, 0) + amount

    def lines(self) -> Iterable[str]:
        """The samples as text."""
        for values, number in sorted(self.values.items()):
            yield f"{self.name}{_braces(self.labels, values)} {_number(number)}"


class Gauge:
    """Numbers that are asked for when the page is made."""

    kind = "gauge"

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.name, self.description, self.labels = name, description, labels
        self.read: Callable[[], dict[Values, float]] = dict

    def lines(self) -> Iterable[str]:
        """The samples as text."""
        for values, number in sorted(self.read().items()):
            yield f"{self.name}{_braces(self.labels, values)} {_number(number)}"


class Histogram:
    """Observations counted below fixed bounds, for each set of label values."""

    kind = "histogram"

    def __init__(self, name: str, description: str, *labels: str, bounds: tuple[float, ...] = LATENCY_BOUNDS) -> None:
        self.name, self.description, self.labels, self.bounds = name, description, labels, bounds
        self.counts: dict[Values, list[int]] = {}
        self.sums: dict[Values, float] = {}

    def observe(self, seconds: float, *values: str) -> None:
        """Count one observation."""
        counts = self.counts.get(values)
        if counts is None:
            counts = self.counts[values] = [0] * (len(self.bounds) + 1)
            self.sums[values] = 0.0
        counts[bisect_left(self.bounds, seconds)] += 1
        self.sums[values] += seconds

    def lines(self) -> Iterable[str]:
        """The samples as text; buckets are cumulative, as the format asks."""
        for values, counts in sorted(self.counts.items()):
            running = 0
            for bound, count in zip((*map(_number, self.bounds), "+Inf"), counts, strict=True):
                running += count
                yield f"{self.name}_bucket{_braces((*self.labels, 'le'), (*values, bound))} {running}"
            yield f"{self.name}_sum{_braces(self.labels, values)} {_number(self.sums[values])}"
            yield f"{self.name}_count{_braces(self.labels, values)} {running}"


class GatewayMetrics:
    """What one gateway counts."""

    def __init__(self) -> None:
        self.requests = Counter(
            "raymill_requests_total", "Requests answered, by variant, endpoint and status.", "variant", "path", "status"
        )
        self.errors = Counter("raymill_request_errors_total", "Requests that failed, by kind.", "variant", "kind")
        self.retries = Counter("raymill_request_retries_total", "Requests tried again on another engine.", "variant")
        self.fallbacks = Counter(
            "raymill_request_fallbacks_total", "Requests that another variant answered.", "variant", "answered_by"
        )
        self.assignments = Counter(
            "raymill_assignments_total", "Assignments by variant, and how it was chosen.", "variant", "how"
        )
        self.refused = Counter("raymill_requests_refused_total", "Requests that a limit or a check refused.", "reason")
        self.ejections = Counter("raymill_engine_ejections_total", "Engines taken out of rotation.")
        self.latency = Histogram(
            "raymill_request_seconds", "Seconds from a request's arrival to its answer's end.", "variant", "path"
        )
        self.first_token = Histogram(
            "raymill_time_to_first_token_seconds", "Seconds from arrival to a stream's first event.", "variant"
        )
        self.token = Histogram(
            "raymill_time_per_token_seconds",
            "Seconds for each token of a stream after the first (events where the engine was not asked to count).",
            "variant",
            bounds=TOKEN_BOUNDS,
        )
        self.tokens = Counter("raymill_tokens_total", "Tokens as the engines counted them.", "variant", "kind")
        self.shadow_requests = Counter(
            "raymill_shadow_requests_total", "Copies sent to the shadow variant, by outcome.", "variant", "outcome"
        )
        self.shadow_latency = Histogram(
            "raymill_shadow_request_seconds", "Seconds until a copy's answer was complete.", "variant"
        )
        self.shadow_first_token = Histogram(
            "raymill_shadow_time_to_first_token_seconds", "Seconds until a copied stream's first event.", "variant"
        )
        self.observations_dropped = Counter(
            "raymill_observations_dropped_total", "Observations lost because nobody took them in time."
        )
        self.ongoing = Gauge("raymill_requests_ongoing", "Requests in flight.")
        self.queued = Gauge("raymill_requests_waiting", "Requests that wait for a place or an engine.", "variant")
        self.connections = Gauge("raymill_connections", "Open connections.")
        self.engines = Gauge("raymill_engines", "Engines of a variant, in rotation or not.", "variant", "state")
        self.shares = Gauge("raymill_variant_share", "Share of the users, 0 to 1.", "variant")
        self.limits = Gauge("raymill_limit", "The limits in force.", "limit")
        self.version = Gauge("raymill_table_version", "Version of the deployment's state that this gateway works by.")

    def render(self) -> str:
        """The page that Prometheus scrapes."""
        lines = []
        for metric in vars(self).values():
            lines.append(f"# HELP {metric.name} {metric.description}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines.extend(metric.lines())
        return "\n".join(lines) + "\n"


def _braces(labels: Values, values: Values) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(each)}"' for name, each in zip(labels, values, strict=True)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
