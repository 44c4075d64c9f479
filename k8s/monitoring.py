"""What Prometheus scrapes and alerts on: the gateways' own metrics and Ray's.

Every metric named here is one that the gateway or the Ray of the lock exports; a test compares them.
"""

from __future__ import annotations

import json

from k8s.cluster_profile import Profile
from k8s.dashboards import DASHBOARDS
from k8s.names import HEAD, PORTS, WORKER, Manifest, metadata, selector

API = "monitoring.coreos.com/v1"


def monitoring(profile: Profile) -> list[Manifest]:
    """PodMonitors, alerts and dashboards; none where the profile switches them off."""
    if not profile.monitoring.enabled:
        return []
    return [*_monitors(profile), _rules(profile), _dashboards(profile)]


def _monitors(profile: Profile) -> list[Manifest]:
    serve = {"port": "serve", "path": "/metrics"}
    return [
        _monitor(profile, "raymill-head", HEAD, [*({"port": n} for n in PORTS if n.endswith("metrics")), serve]),
        _monitor(profile, "raymill-workers", WORKER, [{"port": "metrics"}, serve]),
    ]


def _monitor(profile: Profile, name: str, component: str, endpoints: list[Manifest]) -> Manifest:
    """Labels of a pod that say which cluster and group it is of become labels of its metrics."""
    keep = [
        {"sourceLabels": [f"__meta_kubernetes_pod_label_{source}"], "targetLabel": target}
        for source, target in (("ray_io_cluster", "ray_io_cluster"), ("ray_io_group", "ray_io_group"))
    ]
    return {
        "apiVersion": API,
        "kind": "PodMonitor",
        "metadata": metadata(name, profile.namespace, labels=dict(profile.monitoring.labels)),
        "spec": {
            "selector": selector(component),
            "podMetricsEndpoints": [{**each, "interval": "30s", "relabelings": keep} for each in endpoints],
        },
    }


def _rules(profile: Profile) -> Manifest:
    groups = [
        {"name": "raymill-serving", "rules": serving_alerts(profile)},
        {"name": "raymill-cluster", "rules": cluster_alerts(profile)},
    ]
    return {
        "apiVersion": API,
        "kind": "PrometheusRule",
        "metadata": metadata("raymill", profile.namespace, labels=dict(profile.monitoring.labels)),
        "spec": {"groups": groups},
    }


def serving_alerts(profile: Profile) -> list[Manifest]:
    """Alerts on what callers of served models feel."""
    here = f'namespace="{profile.namespace}"'
    wanted = profile.monitoring
    return [
        _alert(
            "RaymillRequestsFail",
            f'sum by (variant) (rate(raymill_requests_total{{{here},status=~"5.."}}[5m])) / '
            f"sum by (variant) (rate(raymill_requests_total{{{here}}}[5m])) > {wanted.errors_share:g}",
            "10m",
            "critical",
            "Requests to {{ $labels.variant }} fail.",
            "runbook.md#callers-get-503",
        ),
        _alert(
            "RaymillNoEngine",
            f'sum by (variant) (raymill_engines{{{here},state="in_rotation"}}) == 0 and '
            f"sum by (variant) (raymill_variant_share{{{here}}}) > 0",
            "5m",
            "critical",
            "{{ $labels.variant }} has users and no engine.",
            "runbook.md#callers-get-503",
        ),
        _alert(
            "RaymillFirstTokenSlow",
            "histogram_quantile(0.95, sum by (variant, le) "
            f"(rate(raymill_time_to_first_token_seconds_bucket{{{here}}}[10m]))) > {wanted.first_token_seconds:g}",
            "15m",
            "warning",
            "Streams of {{ $labels.variant }} begin late.",
            "kubernetes.md#answers-are-slow",
        ),
        _alert(
            "RaymillRequestsQueue",
            f"sum by (pod) (raymill_requests_waiting{{{here}}}) > "
            f'0.5 * max by (pod) (raymill_limit{{{here},limit="max_queued"}})',
            "5m",
            "warning",
            "The queue of the gateway in {{ $labels.pod }} is half full.",
            "kubernetes.md#answers-are-slow",
        ),
        _alert(
            "RaymillEnginesEjected",
            f"sum(increase(raymill_engine_ejections_total{{{here}}}[15m])) > 3",
            "0m",
            "warning",
            "Engines are taken out of rotation again and again.",
            "runbook.md#an-engine-dies-or-a-replica",
        ),
        _alert(
            "RaymillObservationsLost",
            f"sum(increase(raymill_observations_dropped_total{{{here}}}[15m])) > 0",
            "0m",
            "warning",
            "The rollout's statistics miss observations.",
            "kubernetes.md#observations-are-lost",
        ),
    ]


def cluster_alerts(profile: Profile) -> list[Manifest]:
    """Alerts on Ray's nodes."""
    here = f'namespace="{profile.namespace}"'
    head, workers = 'ray_io_group="headgroup"', 'ray_io_group!~"|headgroup"'
    return [
        _alert(
            "RayHeadGone",
            # A pod that is gone has no `up`: workers without any head say so.
            f"max by (ray_io_cluster) (up{{{here},{head}}}) == 0 or "
            f"(max by (ray_io_cluster) (up{{{here},{workers}}}) unless max by (ray_io_cluster) (up{{{here},{head}}}))",
            "5m",
            "critical",
            "The head of {{ $labels.ray_io_cluster }} answers no scrape.",
            "kubernetes.md#a-head-is-gone",
        ),
        _alert(
            # Not autoscaler_recently_failed_nodes: the autoscaler's version 2 counts every node there that it ends.
            "RayWorkersDie",
            " or ".join(
                f"sum by (ray_io_cluster) (increase({metric}{{{here}}}[30m])) > 0"
                for metric in (
                    "ray_node_manager_unexpected_worker_failure_total",
                    "ray_memory_manager_worker_eviction_total",
                )
            ),
            "0m",
            "warning",
            "Processes of {{ $labels.ray_io_cluster }} died or were killed for memory.",
            "kubernetes.md#workers-die",
        ),
        _alert(
            "RayNodesStayPending",
            f"sum by (ray_io_cluster) (autoscaler_pending_nodes{{{here}}}) > 0",
            "30m",
            "warning",
            "Pods of {{ $labels.ray_io_cluster }} do not start: `raymill jobs why` says what is missing.",
            "kubernetes.md#nodes-stay-pending",
        ),
        _alert(
            "RayNodeMemoryShort",
            f"ray_node_mem_used{{{here}}} / ray_node_mem_total{{{here}}} > 0.92",
            "10m",
            "warning",
            "A Ray node in {{ $labels.pod }} will soon kill its tasks for memory.",
            "kubernetes.md#memory-is-short",
        ),
        _alert(
            "RayNodeDiskShort",
            f"ray_node_disk_free{{{here}}} / (ray_node_disk_free{{{here}}} + ray_node_disk_usage{{{here}}}) < 0.1",
            "10m",
            "warning",
            "A Ray node in {{ $labels.pod }} has less than a tenth of its disk left; Ray spills down to a twentieth.",
            "kubernetes.md#disks-are-full",
        ),
        _alert(
            "RayObjectsSpill",
            f'sum by (ray_io_cluster) (ray_object_store_memory{{{here},Location="SPILLED"}}) > 100 * 2^30',
            "30m",
            "warning",
            "More than 100 GiB of objects of {{ $labels.ray_io_cluster }} are on disk.",
            "kubernetes.md#disks-are-full",
        ),
    ]


def _alert(name: str, expression: str, lasting: str, severity: str, summary: str, page: str) -> Manifest:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "runbook": f"docs/{page}"},
    }


def _dashboards(profile: Profile) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata("raymill-dashboards", profile.namespace, labels={"grafana_dashboard": "1"}),
        "data": {f"{each.uid}.json": json.dumps(each.page(), indent=1) + "\n" for each in DASHBOARDS},
    }
