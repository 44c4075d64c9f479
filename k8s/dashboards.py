"""Grafana dashboards: what a served model's callers feel, and what Ray's nodes do."""

from __future__ import annotations

from dataclasses import dataclass

from k8s.names import Manifest

WIDTH, HEIGHT, ROW = 8, 8, 3
NAMESPACE = 'namespace="$namespace"'


@dataclass(frozen=True)
class Panel:
    """One graph: its title, its unit in Grafana's words, and what is drawn (legend -> expression).

    ``NS`` in an expression stands for the namespace that is chosen on the page.
    """

    title: str
    unit: str
    lines: dict[str, str]

    def json(self, index: int) -> Manifest:
        """Grafana's panel, the index-th of its page, three in a row."""
        return {
            "id": index + 1,
            "type": "timeseries",
            "title": self.title,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "gridPos": {"x": index % ROW * WIDTH, "y": index // ROW * HEIGHT, "w": WIDTH, "h": HEIGHT},
            "targets": [
                {"refId": chr(ord("A") + place), "legendFormat": legend, "expr": expression.replace("NS", NAMESPACE)}
                for place, (legend, expression) in enumerate(self.lines.items())
            ],
        }


@dataclass(frozen=True)
class Dashboard:
    """One page of panels."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    namespaces: str

    def page(self) -> Manifest:
        """The page as Grafana reads it.

        ``namespaces`` is the metric whose namespaces can be chosen.
        """
        chosen = {
            "name": "namespace",
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": f"label_values({self.namespaces}, namespace)",
            "refresh": 2,
        }
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["raymill"],
            "schemaVersion": 39,
            "version": 1,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}, chosen]},
            "panels": [panel.json(index) for index, panel in enumerate(self.panels)],
        }


def _quantile(metric: str, share: float) -> str:
    return f"histogram_quantile({share:g}, sum by (variant, le) (rate({metric}_bucket{{NS}}[5m])))"


def _quantiles(metric: str) -> dict[str, str]:
    return {f"{{{{variant}}}} p{share * 100:.0f}": _quantile(metric, share) for share in (0.5, 0.95, 0.99)}


SERVING = Dashboard(
    "raymill-serving",
    "Raymill: served models",
    (
        Panel("Requests", "reqps", {"{{variant}}": "sum by (variant) (rate(raymill_requests_total{NS}[5m]))"}),
        Panel(
            "Failed requests",
            "percentunit",
            {
                "{{variant}}": 'sum by (variant) (rate(raymill_requests_total{NS,status=~"5.."}[5m])) / '
                "sum by (variant) (rate(raymill_requests_total{NS}[5m]))"
            },
        ),
        Panel("Share of the users", "percentunit", {"{{variant}}": "max by (variant) (raymill_variant_share{NS})"}),
        Panel("Time to first token", "s", _quantiles("raymill_time_to_first_token_seconds")),
        Panel("Time per token", "s", _quantiles("raymill_time_per_token_seconds")),
        Panel("Whole requests", "s", _quantiles("raymill_request_seconds")),
        Panel(
            "Tokens", "short", {"{{variant}} {{kind}}": "sum by (variant, kind) (rate(raymill_tokens_total{NS}[5m]))"}
        ),
        Panel(
            "In flight and waiting",
            "short",
            {
                "in flight": "sum(raymill_requests_ongoing{NS})",
                "waiting for {{variant}}": "sum by (variant) (raymill_requests_waiting{NS})",
            },
        ),
        Panel(
            "Engines",
            "short",
            {"{{variant}} {{state}}": "max by (variant, state) (raymill_engines{NS})"},
        ),
        Panel(
            "Second tries and stand-ins",
            "reqps",
            {
                "{{variant}} tried again": "sum by (variant) (rate(raymill_request_retries_total{NS}[5m]))",
                "{{variant}} by another": "sum by (variant) (rate(raymill_request_fallbacks_total{NS}[5m]))",
            },
        ),
        Panel("Refused", "reqps", {"{{reason}}": "sum by (reason) (rate(raymill_requests_refused_total{NS}[5m]))"}),
        Panel("Version of the routes", "short", {"{{pod}}": "max by (pod) (raymill_table_version{NS})"}),
    ),
    "raymill_requests_total",
)
CLUSTER = Dashboard(
    "raymill-cluster",
    "Raymill: Ray clusters",
    (
        Panel("Nodes", "short", {"{{NodeType}}": "sum by (NodeType) (autoscaler_active_nodes{NS})"}),
        Panel("Nodes wanted", "short", {"{{NodeType}}": "sum by (NodeType) (autoscaler_pending_nodes{NS})"}),
        Panel("CPU", "percent", {"{{pod}}": "ray_node_cpu_utilization{NS}"}),
        Panel("Memory", "percentunit", {"{{pod}}": "ray_node_mem_used{NS} / ray_node_mem_total{NS}"}),
        Panel("GPU", "percent", {"{{pod}} {{GpuIndex}}": "ray_node_gpus_utilization{NS}"}),
        Panel(
            "GPU memory",
            "percentunit",
            {"{{pod}} {{GpuIndex}}": "ray_node_gram_used{NS} / (ray_node_gram_used{NS} + ray_node_gram_available{NS})"},
        ),
        Panel("Object store", "bytes", {"{{Location}}": "sum by (Location) (ray_object_store_memory{NS})"}),
        Panel("Disk free", "bytes", {"{{pod}}": "ray_node_disk_free{NS}"}),
        Panel(
            "Network",
            "Bps",
            {
                "sent": "sum(ray_node_network_send_speed{NS})",
                "received": "sum(ray_node_network_receive_speed{NS})",
            },
        ),
        Panel("Tasks", "short", {"{{State}}": "sum by (State) (ray_tasks{NS})"}),
        Panel("Actors", "short", {"{{State}}": "sum by (State) (ray_actors{NS})"}),
    ),
    "ray_node_cpu_utilization",
)
DASHBOARDS = (SERVING, CLUSTER)
