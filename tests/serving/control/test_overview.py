"""The status of a deployment, from what the controller knows."""

import pytest

from serving.config import ServingConfig
from serving.control.overview import overview
from serving.control.redeploy import first_state
from serving.control.sightings import Sightings
from serving.control.state import ModelSource
from serving.engines.announcement import Announcement
from serving.engines.plan import VariantSource
from serving.gateway.table import VariantRoute


@pytest.mark.parametrize(
    ("route", "reasons", "state", "reason"),
    [
        (VariantRoute("a", ("http://a",)), {}, "ready", ""),
        (VariantRoute("a", ("http://a",)), {"a": "one replica died"}, "ready", ""),
        (VariantRoute("a"), {}, "starting", ""),
        (VariantRoute("a"), {"a": "out of memory"}, "failed", "out of memory"),
        (VariantRoute("a", asleep=True), {}, "asleep", ""),
        (VariantRoute("older", ("http://older",)), {}, "starting", ""),  # its previous engine still answers for it
        (VariantRoute("older", ("http://older",)), {"a": "no such file"}, "failed", "no such file"),
        (None, {}, "starting", ""),
    ],
)
def test_a_variants_state_says_whether_it_answers_and_why_not(route, reasons, state, reason):
    config = ServingConfig(variants=[{"name": "a", "model": "given"}], engine={"replicas": "1:3"})
    wanted = first_state(config, {"a": VariantSource(ModelSource(folder="/a"))}, name="demo", by="me", now=1.0)
    sightings = Sightings()
    sightings.announce(Announcement("r", "a", "http://a", "node", 7, (7,), 1.0, "log", ("a",)), 0)
    status = overview(
        wanted,
        gateways=(),
        sightings=sightings,
        routes={"a": route} if route else {},
        targets={"a": 2},
        reasons=reasons,
        ongoing={"http://a": 5, "http://else": 1},
        rollout={},
        problems=["state: the store is away"],
        now=2.0,
    )
    (variant,), (engine,) = status.variants, status.engines
    assert (variant.state, variant.reason, variant.share) == (state, reason, 1.0)
    assert (engine.wanted, engine.target, engine.refusal) == ("1:3", 2, reasons.get("a", ""))
    assert [(each.pid, each.ongoing) for each in engine.replicas] == [(7, 5)]
    assert status.problems == ("state: the store is away",)
