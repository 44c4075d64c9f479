"""The word of an evaluation about two models, as an artifact: a rollout's gate reads it.

Its details are ``candidate`` and ``baseline`` (an artifact's id, or the absolute path of a folder), ``verdict`` and
``checks``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.stage import provenance
from cluster.store import Store

KIND = "Decision"
Verdict = Literal["pass", "fail", "no_evidence"]


def publish_decision(
    store: Store,
    *,
    candidate: str,
    baseline: str,
    verdict: Verdict,
    checks: Sequence[Mapping[str, Any]] = (),
    by: str,
) -> Artifact:
    """Record whether a candidate may replace a baseline. Of several about the same pair, the newest counts.

    Args:
        checks: each with a ``name``, a ``verdict`` and the numbers that made it.
        by: who or what decided.
    """
    began = time.time()
    details = {"candidate": candidate, "baseline": baseline, "verdict": verdict, "by": by, "checks": [*checks]}
    identity = Identity(KIND, "decision", 1, {**details, "at": began}, {})
    with Attempt(store, identity.id) as attempt:
        attempt.write_json("decision.json", details)
        return attempt.publish(
            Artifact(
                kind=KIND,
                name=identity.name,
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                attempt=attempt.name,
                files=attempt.seal(),
                details=details,
                provenance=provenance(began),
            )
        )
