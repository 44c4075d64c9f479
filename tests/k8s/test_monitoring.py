"""Alerts and dashboards name metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from k8s.cluster_profile import load_profile
from k8s.monitoring import monitoring
from serving.gateway.metrics import GatewayMetrics, Histogram

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    *("sum", "max", "by", "rate", "increase", "and", "or", "unless", "histogram_quantile", "le", "up", "on"),
    *("variant", "status", "namespace", "state", "pod", "limit", "kind", "reason", "ray_io_cluster", "ray_io_group"),
    *("Location", "NodeType", "State", "GpuIndex", "label_values", "m"),
}


@pytest.fixture(scope="module")
def expressions() -> list[str]:
    found: list[str] = []
    for manifest in monitoring(load_profile("gpu")):
        if manifest["kind"] == "PrometheusRule":
            found += [rule["expr"] for group in manifest["spec"]["groups"] for rule in group["rules"]]
        if manifest["kind"] == "ConfigMap":
            for text in manifest["data"].values():
                page = json.loads(text)
                found += [target["expr"] for panel in page["panels"] for target in panel["targets"]]
                found += [each["query"] for each in page["templating"]["list"] if each["type"] == "query"]
    assert len(found) > 40
    return found


def names(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"|\$\w+|\[\w+\]', "", expression)
    return set(re.findall(r"[A-Za-z_]\w+", bare)) - WORDS


def test_every_expression_is_promql(expressions: list[str]) -> None:
    for expression in expressions:
        if not expression.startswith("label_values("):  # Grafana's own
            promql_parser.parse(expression.replace("$namespace", "x"))


def test_alerts_on_heads_hear_of_pods_that_are_gone_and_not_of_every_scale_down() -> None:
    (rules,) = [each for each in monitoring(load_profile("gpu")) if each["kind"] == "PrometheusRule"]
    alerts = {rule["alert"]: rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]}
    assert " unless " in alerts["RayHeadGone"]
    assert not any("autoscaler_recently_failed_nodes" in expression for expression in alerts.values())


def test_the_autoscaler_counts_as_failed_what_it_ends_itself() -> None:
    """Why no alert asks for it: Ray's own text says so."""
    place = Path(find_spec("ray").submodule_search_locations[0])  # type: ignore[union-attr,index]
    text = (place / "autoscaler" / "v2" / "metrics_reporter.py").read_text(encoding="utf-8")
    assert "recently_failed_nodes: Nodes that are being terminated." in text


def test_the_gateways_metrics_are_its_own(expressions: list[str]) -> None:
    exported: dict[str, tuple[str, ...]] = {}
    for metric in vars(GatewayMetrics()).values():
        for suffix in ("_bucket", "_sum", "_count") if isinstance(metric, Histogram) else ("",):
            exported[f"{metric.name}{suffix}"] = metric.labels
    used = {name for expression in expressions for name in names(expression) if name.startswith("raymill_")}
    assert used <= exported.keys()
    assert len(used) > 12
    for expression in expressions:
        for by in re.findall(r"by \(([^)]*)\)", expression):
            for metric in re.findall(r"raymill_\w+", expression):
                asked = {each.strip() for each in by.split(",")} - {"le", "pod", "ray_io_cluster"}
                assert asked <= set(exported[metric]), expression


def test_rays_metrics_are_in_its_source(expressions: list[str]) -> None:
    """Each name is one that the installed Ray defines, as text in its Python or its compiled core."""
    (place,) = find_spec("ray").submodule_search_locations  # type: ignore[union-attr]
    ray = Path(place)
    python = [
        ray / "dashboard/modules/reporter/reporter_agent.py",
        ray / "autoscaler/_private/prom_metrics.py",
        ray / "dashboard/modules/metrics/dashboards/default_dashboard_panels.py",
    ]
    text = "".join(path.read_text(encoding="utf-8") for path in python)
    used = {name for expression in expressions for name in names(expression) if not name.startswith("raymill_")}
    assert len(used) > 12
    for name in used:
        assert (
            name in text or f'"{name.removeprefix("ray_")}"' in text or f'"{name.removeprefix("autoscaler_")}"' in text
        )


def test_states_and_limits_that_are_asked_for_exist() -> None:
    report = (ROOT / "serving" / "gateway" / "report.py").read_text(encoding="utf-8")
    assert '"in_rotation"' in report
    from serving.config import LimitsConfig

    assert "max_queued" in LimitsConfig.model_fields


def test_every_alert_leads_to_a_page_that_exists() -> None:
    (rules,) = [each for each in monitoring(load_profile("gpu")) if each["kind"] == "PrometheusRule"]
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            page, _, anchor = rule["annotations"]["runbook"].partition("#")
            headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, rule["alert"]


def test_thresholds_are_the_profiles() -> None:
    profile = load_profile("gpu", ["monitoring.first_token_seconds=0.7", "monitoring.errors_share=0.05"])
    text = json.dumps(monitoring(profile))
    assert "> 0.7" in text
    assert "> 0.05" in text


def test_what_is_scraped_is_a_port_of_the_pods() -> None:
    from k8s.raycluster import cluster_spec

    profile = load_profile("gpu")
    spec: Any = cluster_spec(profile, "x")
    templates = {"raymill-head": spec["headGroupSpec"], "raymill-workers": spec["workerGroupSpecs"][0]}
    for manifest in monitoring(profile):
        if manifest["kind"] == "PodMonitor":
            (container,) = templates[manifest["metadata"]["name"]]["template"]["spec"]["containers"]
            ports = {port["name"] for port in container["ports"]}
            assert {each["port"] for each in manifest["spec"]["podMetricsEndpoints"]} <= ports
            selector = manifest["spec"]["selector"]
            labels = templates[manifest["metadata"]["name"]]["template"]["metadata"]["labels"]
            assert selector["matchLabels"].items() <= labels.items()
            assert labels["app.kubernetes.io/component"] in selector["matchExpressions"][0]["values"]
