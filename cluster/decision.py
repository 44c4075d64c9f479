"""The word of an evaluation about two models, as an artifact: a rollout's gate reads it.

Its details are ``candidate`` and ``baseline`` (an artifact's id, or the absolute path of a folder), ``verdict`` and
``checks``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.artifact import Artifact, Identity, InputEntry
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
    inputs: Mapping[str, Artifact] | None = None,
    page: str = "",
) -> Artifact:
    """Record whether a candidate may replace a baseline. Of several about the same pair, the newest counts.

    Args:
        checks: each with a ``name``, a ``verdict`` and the numbers that made it.
        by: who or what decided.
        inputs: role -> what it rests on, such as the two evaluations.
        page: a report to look at, as HTML.
    """
    began = time.time()
    details = {"candidate": candidate, "baseline": baseline, "verdict": verdict, "by": by, "checks": [*checks]}
    parents = {role: InputEntry(id=each.id, fingerprint=each.fingerprint) for role, each in (inputs or {}).items()}
    fingerprints = {role: entry.fingerprint for role, entry in parents.items()}
    identity = Identity(KIND, "decision", 1, {**details, "at": began}, fingerprints)
    with Attempt(store, identity.id) as attempt:
        attempt.write_json("decision.json", details)
        if page:
            attempt.write_text("report.html", page)
        return attempt.publish(
            Artifact(
                kind=KIND,
                name=identity.name,
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                inputs=parents,
                attempt=attempt.name,
                files=attempt.seal(),
                details=details,
                provenance=provenance(began) | {"finished": _moment()},
            )
        )


def _moment() -> str:
    """Now, to the microsecond: of two decisions within a second the later one has to count."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
