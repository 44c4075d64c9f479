"""The metrics page, read by Prometheus's own parser."""

from prometheus_client.parser import text_string_to_metric_families

from serving.gateway.metrics import GatewayMetrics


def test_the_page_parses_and_says_what_was_counted():
    metrics = GatewayMetrics()
    metrics.requests.add('a"\\\n', "/v1/completions", "200")
    metrics.requests.add('a"\\\n', "/v1/completions", "200", amount=2)
    metrics.version.read = lambda: {(): 7.0}
    for seconds in (0.001, 0.05, 0.07, 500.0):
        metrics.latency.observe(seconds, "a", "/v1/completions")
    families = {family.name: family for family in text_string_to_metric_families(metrics.render())}
    (sample,) = families["raymill_requests"].samples
    assert sample.value == 3
    assert sample.labels == {"variant": 'a"\\\n', "path": "/v1/completions", "status": "200"}
    assert families["raymill_table_version"].samples[0].value == 7
    latency = families["raymill_request_seconds"]
    below = {s.labels["le"]: s.value for s in latency.samples if s.name.endswith("_bucket")}
    assert (below["0.005"], below["0.05"], below["0.1"], below["120"], below["+Inf"]) == (1, 2, 3, 3, 4)
    assert next(s.value for s in latency.samples if s.name.endswith("_count")) == 4
    assert abs(next(s.value for s in latency.samples if s.name.endswith("_sum")) - 500.121) < 1e-9


def test_an_unused_metric_is_described_and_has_no_samples():
    page = GatewayMetrics().render()
    assert "# TYPE raymill_time_to_first_token_seconds histogram" in page
    assert not [line for line in page.splitlines() if not line.startswith("#")]
