"""The rollout's state machine: events in, decisions out, and nothing else.

Each compared step is an experiment of its own, over units whose requests were assigned after the step began. Alarms
(harm on a guardrail, a wrong sample ratio) share alpha by the union bound over steps and kinds. A step passes when
every guardrail is shown to hold: an intersection-union test, so that each is tested at alpha (Berger 1982,
"Multiparameter hypothesis testing and acceptance sampling").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from serving.control.state import RolloutStatus
from serving.rollout.config import FULL, RolloutConfig
from serving.rollout.decision import Decision, What
from serving.rollout.events import Event
from serving.rollout.measures import Evidence
from serving.rollout.units import SIDES, Unit

Phase = Literal["moving", "waiting", "comparing", "baking", "over"]
ENDED: tuple[RolloutStatus, ...] = ("promoted", "rolled_back", "finished")
_SAME_SHARE = 1e-6

_ENDS: dict[What, RolloutStatus] = {"promote": "promoted", "rollback": "rolled_back", "finish": "finished"}

Verdict = tuple[What, str, str]
"""What, why, and the name under which it is decided only once in a step (empty: it ends the step)."""


class Machine:
    """A rollout, folded from its events.

    Args:
        config: the rollout's.

    Attributes:
        decisions: everything decided so far.
        status: where the rollout stands.
        phase: ``moving`` until the step's weights are in force, then ``comparing``, or ``baking`` at 100 per cent;
            ``waiting`` where they wait for an engine and the candidate has users already, who are watched meanwhile.
        step: index into ``shares``.
        shares: the candidate's share in each step, in per cent; for mode ab the last one is 100.
        version: the state's version that began the step, or its waiting; None while nothing is observed.
        began: when it did.
        waits_for: the variant that the step cannot go on without and that no engine answers for; empty where none.
        evidence: what the step has shown.
    """

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.shares = config.compared_steps + ((FULL,) if config.mode == "ab" else ())
        self.decisions: list[Decision] = []
        self.status: RolloutStatus = "running"
        self.phase: Phase = "moving"
        self.step = 0
        self.version: int | None = None
        self.began = 0.0
        self.experiments = 0
        self.evidence = Evidence(config, None)
        self.before = 0.0
        self.waits_for = ""
        self._share = 0.0
        self._last: Evidence | None = None
        self._noted: set[str] = set()
        self._paused_at: float | None = None
        self._paused_seconds = 0.0
        self._away_seconds = 0.0

    def apply(self, event: Event) -> None:
        """Fold one event."""
        kind, at = event["kind"], float(event["at"])
        if kind == "start":
            self.before = pair_share(event["weights"], self.config) or 0.0
            self._decide(at, "start", event["why"], by=event["by"])
            if event["refusal"]:
                self._decide(at, "rollback", event["refusal"])
                self.status = "rolled_back"
                self._close()
        elif kind == "state":
            self._see(event, at)
        elif kind == "waits":
            self._wait(event, at)
        elif kind == "away":
            self._skip(float(event["seconds"]))
        elif kind == "units":
            self.evidence.fold([Unit.decode(values) for values in event["units"]], event["excluded"])
            self._judge(at)

    @property
    def target(self) -> float | None:
        """The share that the candidate should have now, in per cent; None where it is not the machine's to say."""
        if self.status == "rolled_back":
            return 0.0
        if self.status == "promoted":
            return FULL
        if self.status == "finished":
            return self.before
        return self.shares[self.step] if self.status == "running" else None

    @property
    def name(self) -> str:
        """The step in words."""
        share = self.shares[self.step]
        return f"step {self.step + 1} of {len(self.shares)}, {share:g} %"

    @property
    def deciding(self) -> bool:
        """Whether the step passes only when every guardrail is shown to hold."""
        last, config = self.step == len(self.config.compared_steps) - 1, self.config
        return config.mode == "ab" and (last or config.require == "every_step")

    def elapsed(self, at: float) -> float:
        """Seconds that the step has lasted while somebody observed it."""
        return at - self.began - self._away_seconds if self.version is not None else 0.0

    def due(self, at: float) -> bool:
        """Whether time alone makes a decision at this moment."""
        return self.status == "running" and self._verdict(at) is not None

    def _see(self, event: Event, at: float) -> None:
        """A state of the deployment: status changed by hand, weights in force."""
        by, reason = str(event["by"]), str(event["reason"])
        status: RolloutStatus = event["status"]
        share = pair_share(event["weights"], self.config)
        if status != self.status and (self.status not in ENDED or status in ENDED):
            self._change_by_hand(at, status, by, reason)
        if self.status in ENDED:
            return
        in_force = share is not None and abs(share - self.shares[self.step]) < _SAME_SHARE
        if self.phase == "waiting" and (in_force or event["candidate_share"] != self._share):
            self.version, self.phase = None, "moving"
        if self.version is None and in_force and self.status == "running":
            self._begin(at, event)
        elif self.version is not None and not in_force and self.phase != "waiting":
            self.version = None
            self.phase = "moving"
            self._decide(
                at, "weights", f"the weights were changed by hand: {reason}; the step begins anew later", by=by
            )

    def _wait(self, event: Event, at: float) -> None:
        """An engine of a variant ceased to answer, or answers again."""
        self.waits_for = str(event["for"])
        if self.phase == "waiting" and not self.waits_for:
            self.version, self.phase = None, "moving"
        elif self.unwatched and event["candidate_share"] > 0:
            self._open_experiment(at, event)
            self.phase = "waiting"
            words = f"no engine of {self.waits_for} answers, so {self.name} does not begin"
            self._decide(at, "hold", f"{words}; who is on {self.config.candidate} is watched")

    @property
    def unwatched(self) -> bool:
        """Whether the step waits for an engine and nothing is observed meanwhile."""
        return self.version is None and self.status == "running" and self.waits_for != ""

    def _skip(self, seconds: float) -> None:
        """Time that nobody observed is no time of the step; nor is it of a pause, as pauses are taken off as well."""
        self._away_seconds += seconds
        if self._paused_at is not None:
            self._paused_at += seconds

    def _change_by_hand(self, at: float, status: RolloutStatus, by: str, reason: str) -> None:
        if status == "paused":
            self._decide(at, "pause", reason, by=by)
            self._paused_at = at
        elif status == "running":
            self._paused_seconds += at - (self._paused_at if self._paused_at is not None else at)
            self._paused_at = None
            self._decide(at, "resume", reason, by=by)
        else:
            kinds: dict[RolloutStatus, What] = {"promoted": "promote", "rolled_back": "rollback", "finished": "finish"}
            self._decide(at, kinds[status], reason, by=by)
        self.status = status
        if status in ENDED:
            self._close()

    def _begin(self, at: float, event: Event) -> None:
        """The step's weights are in force: its experiment begins."""
        baking = self.shares[self.step] == FULL
        self._open_experiment(at, event)
        self.phase = "baking" if baking else "comparing"
        what: What = "bake" if baking else "begin"
        who = f"users on {self.config.candidate}" + (f"; {self.config.baseline} is kept warm" if baking else "")
        self._decide(at, what, f"{self.shares[self.step]:g} % of the {who}, from version {self.version}")

    def _open_experiment(self, at: float, event: Event) -> None:
        self.version, self.began = int(event["version"]), at
        self.experiments += 1
        self._noted, self._paused_seconds, self._away_seconds = set(), 0.0, 0.0
        self._share = float(event["candidate_share"])
        if self._share < 1:
            self.evidence = Evidence(self.config, self._share)
        else:  # nobody is left to compare with
            self.evidence = Evidence(self.config, None, reference=self._last)

    def _judge(self, at: float) -> None:
        while self.status == "running" and (verdict := self._verdict(at)) is not None:
            what, why, once = verdict
            self._decide(at, what, why)
            if once:
                self._noted.add(once)
            elif what == "advance":
                self._last = self.evidence
                self.step += 1
                self.version, self.phase = None, "moving"
                return
            else:
                self.status = _ENDS[what]
                self._close()

    def _close(self) -> None:
        self.version, self.phase = None, "over"

    def _verdict(self, at: float) -> Verdict | None:
        """What is to be decided now; None for nothing new."""
        if self.version is None:
            return None
        if self.phase == "baking":
            return self._alarm_of_bake() or self._if_it_answers(self._progress_of_bake(at))
        if self.phase == "waiting":
            return self._alarm() or self._timeout(at)
        return self._alarm() or self._if_it_answers(self._progress(at)) or self._timeout(at)

    def _if_it_answers(self, verdict: Verdict | None) -> Verdict | None:
        """Nobody moves to a candidate without an engine, and none is promoted: the step goes on, with its alarms."""
        if verdict is None or not self.waits_for or verdict[0] not in ("advance", "promote"):
            return verdict
        return self._once("hold", f"{verdict[1]}, but no engine of {self.waits_for} answers", "engine")

    def _alarm(self) -> Verdict | None:
        """Harm first, then a wrong sample ratio, then callers who leave."""
        level = self.config.alarm_alpha
        for finding in self.evidence.findings():
            if finding.p_harm <= level:
                words = _harm(self.config, self.name, finding.metric, finding.p_harm, level)
                if self.config.mode != "aa":
                    return "rollback", words, ""
                if f"harm {finding.metric}" not in self._noted:
                    return "false_alarm", f"{words}, though both are the same model", f"harm {finding.metric}"
        if self.evidence.ratio_p <= level and "ratio" not in self._noted:
            counts = [self.evidence.sides[side]["units"] for side in SIDES]
            words = (
                f"the sample ratio is wrong in {self.name}: {counts[1]:,} of {sum(counts):,} units are on "
                f"{self.config.candidate} (p = {self.evidence.ratio_p:.2g}), so some are lost on one side and nothing "
                "can be compared"
            )
            return self._doubt(words, "ratio")
        return self._silence()

    def _silence(self) -> Verdict | None:
        """More callers than allowed leave the candidate without an answer: what it would have been nobody knows."""
        if self.evidence.gave_up_p > self.config.alarm_alpha or "gave_up" in self._noted:
            return None
        means = [self.evidence.gave_up[side].mean if self.evidence.gave_up[side].n else 0.0 for side in SIDES]
        words = (
            f"callers leave {self.config.candidate} before it answers in {self.name}: {means[1]:.1%} of a user's "
            f"requests, {means[0]:.1%} on {self.config.baseline} (p = {self.evidence.gave_up_p:.2g}), and how "
            "long they would have waited nobody knows"
        )
        return self._doubt(words, "gave_up")

    def _doubt(self, words: str, name: str) -> Verdict:
        """What is missing on one side makes the rest worthless: it goes on by hand only."""
        if self.config.mode == "aa":
            return "false_alarm", words, name
        return "hold", f"{words}; find out why, then roll back or promote by hand", name

    @property
    def in_doubt(self) -> bool:
        """Whether users or answers are missing on one side, so that the step goes on by hand only."""
        return min(self.evidence.ratio_p, self.evidence.gave_up_p) <= self.config.alarm_alpha

    def _progress(self, at: float) -> Verdict | None:
        """Whether the step has passed, once it has its least time and units."""
        config = self.config
        units = min(self.evidence.sides[side]["units"] for side in SIDES)
        if self.elapsed(at) < config.minimum_seconds or units < config.minimum_units:
            return None
        if config.mode == "aa":
            if self.step < len(config.compared_steps) - 1:
                return "advance", f"{self.name} is measured", ""
            return "finish", self._summary_of_probe(), ""
        if self.in_doubt:
            return None
        if self.deciding:
            if unmet := self.not_shown():
                return self._once("hold", self._unmet(unmet), "not_shown")
            return "advance", f"every guardrail is shown to hold in {self.name}", ""
        return "advance", f"no harm is shown in {self.name}, with {units:,} units or more on each side", ""

    def _timeout(self, at: float) -> Verdict | None:
        if self.elapsed(at) - self._pause(at) < self.config.maximum_seconds:
            return None
        units = {side: self.evidence.sides[side]["units"] for side in SIDES}
        why = f"{self.name} has not passed in {self.config.maximum_seconds:,.0f} s: {self._missing(units)}"
        if self.config.mode == "aa":
            return "finish", f"{why}; {self._summary_of_probe()}", ""
        if self.config.on_timeout == "rollback":
            return "rollback", why, ""
        return self._once("timeout", f"{why}; it holds, and may still pass", "timeout")

    def _alarm_of_bake(self) -> Verdict | None:
        level = self.config.alarm_alpha
        for finding in self.evidence.findings():
            if finding.p_harm <= level:
                return "rollback", _harm(self.config, self.name, finding.metric, finding.p_harm, level), ""
        return self._silence()

    def _progress_of_bake(self, at: float) -> Verdict | None:
        if self.in_doubt or self.elapsed(at) < self.config.bake_seconds:
            return None
        units = self.evidence.sides["candidate"]["units"]
        shown = f"{self.config.bake_seconds:,.0f} s and {units:,} units at 100 %"
        if units < self.config.minimum_units:
            why = f"{shown} showed no harm, but it takes {self.config.minimum_units:,} units to promote"
            return self._once("hold", why, "few_units")
        return "promote", f"every step has passed, and {shown} showed no harm", ""

    def _once(self, what: What, why: str, name: str) -> Verdict | None:
        return None if name in self._noted else (what, why, name)

    def _missing(self, units: dict[Any, int]) -> str:
        if self.evidence.ratio_p <= self.config.alarm_alpha:
            return "the sample ratio is wrong"
        if self.in_doubt:
            return "callers leave the candidate before it answers"
        if self.waits_for:
            return f"no engine of {self.waits_for} answers"
        few = [f"{getattr(self.config, side)} has {n:,}" for side, n in units.items() if n < self.config.minimum_units]
        if few:
            return f"{' and '.join(few)} of {self.config.minimum_units:,} units"
        return self._unmet(self.not_shown())

    def not_shown(self) -> list[str]:
        """Guardrails that the step still waits for; an optional one that neither side ever measured is none."""
        optional = {rail.metric for rail in self.config.guardrails if rail.optional}
        return [
            each.metric
            for each in self.evidence.findings()
            if each.p_pass > self.config.alpha
            and (each.metric not in optional or each.baseline_units or each.candidate_units)
        ]

    def _unmet(self, metrics: list[str]) -> str:
        empty = [
            finding.metric
            for finding in self.evidence.findings()
            if finding.metric in metrics and not min(finding.baseline_units, finding.candidate_units)
        ]
        parts = []
        if waiting := [metric for metric in metrics if metric not in empty]:
            parts.append(f"not yet shown to hold: {', '.join(waiting)}")
        if empty:
            parts.append(f"never measured: {', '.join(empty)}")
        return "; ".join(parts) or "nothing is missing"

    def _pause(self, at: float) -> float:
        return self._paused_seconds + (at - self._paused_at if self._paused_at is not None else 0.0)

    def _summary_of_probe(self) -> str:
        alarms = [decision.why for decision in self.decisions if decision.what == "false_alarm"]
        if alarms:
            return f"{len(alarms)} false alarm{'s' if len(alarms) > 1 else ''}: what is measured differs between equals"
        return "no false alarm"

    def _decide(self, at: float, what: What, why: str, by: str = "rollout") -> None:
        self.decisions.append(
            Decision(
                number=len(self.decisions) + 1,
                at=at,
                what=what,
                step=self.step + 1,
                share=self.shares[self.step],
                why=why,
                by=by,
                ratio_p=self.evidence.ratio_p,
                gave_up_p=self.evidence.gave_up_p,
                findings=self.evidence.findings(),
                sides={side: dict(self.evidence.sides[side]) for side in SIDES},
                excluded=dict(sorted(self.evidence.excluded.items())),
            )
        )


def pair_share(weights: Mapping[str, float], config: RolloutConfig) -> float | None:
    """The candidate's share of the pair's weights, in per cent; None where both are 0."""
    candidate, baseline = weights.get(config.candidate, 0.0), weights.get(config.baseline, 0.0)
    total = candidate + baseline
    return 100 * candidate / total if total > 0 else None


def _harm(config: RolloutConfig, step: str, metric: str, p: float, level: float) -> str:
    guardrail = next(each for each in config.guardrails if each.metric == metric)
    allowed = f"{guardrail.margin:.0%}" if guardrail.relative else f"{guardrail.margin:g}"
    return (
        f"{config.candidate} is worse than {config.baseline} on {metric} by more than {allowed} in {step} "
        f"(p = {p:.2g}, alarm at {level:.2g})"
    )
