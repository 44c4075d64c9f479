"""`raymill rollout …` against a store: what people type, what they are told, and the exit codes."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.config import parse_document
from cluster.stage import provenance
from cluster.store_local import LocalStore
from pipelines.cli import build_parser, run_command
from serving.config import ServingConfig
from serving.control import operations, status
from serving.control.changes import moved_by_rollout
from serving.control.journal import Journal
from serving.control.state import ModelSource
from serving.control.status import DeploymentStatus, VariantStatus
from serving.engines.plan import VariantSource, initial_state
from serving.gateway.observation import Observation
from serving.rollout.run import RolloutRun

BASE, TUNED = "Model/base-0123456789ab", "Model/tuned-0123456789ab"
QUICK = ["--set", "minimum_seconds=5", "--set", "minimum_units=20", "--set", "window_seconds=1"]
RAILS = ["--set", "guardrails=[{metric: error_rate, margin: 0.1}]", "--set", "bake_seconds=5", "--steps", "50,100"]
START = ["start", "--candidate", "tuned", "--baseline", "base"]


@pytest.fixture
def journal(store: LocalStore) -> Journal:
    made = Journal(store, "docs")
    sources = {name: VariantSource(ModelSource(artifact=id)) for name, id in (("base", BASE), ("tuned", TUNED))}
    config = ServingConfig.model_validate(
        {"variants": [{"name": "base", "model": BASE, "weight": 100}, {"name": "tuned", "model": TUNED, "weight": 0}]}
    )
    made.create(initial_state(config, sources, name="docs", by="me", now=1.0))
    return made


def rollout(journal: Journal, *arguments: str) -> int:
    return run_command(["rollout", *arguments, "--store", journal.store.url])


def drive(journal: Journal, seconds: int, errors: float = 0.0) -> None:
    """Play the controller for some simulated seconds, with two new users on each side a tick."""
    now = time.time()
    run = RolloutRun.open(journal.store, journal.name, journal.current())
    for second in range(seconds):
        now += 1
        state = journal.current()
        seen = []
        for index in range(8):
            user = f"{second}-{index}"
            variant = state.allocation().assign(state.experiment, user).variant
            failed = variant == "tuned" and index % 4 < 4 * errors
            seen.append(Observation(user, True, variant, state.version, now, failed))
        run.observe(seen, [])
        action = run.tick(now, state)
        if action is not None and state.rollout is not None:
            journal.change(
                lambda latest, action=action, id=state.rollout.id: moved_by_rollout(  # type: ignore[misc]
                    latest, id, action.weights, action.status
                ),
                by=f"rollout {state.rollout.id}",
                reason=action.reason,
            )


def publish_decision(store: LocalStore, verdict: str) -> str:
    identity = Identity("Decision", "gate", 1, {"verdict": verdict}, {})
    details = {"candidate": TUNED, "baseline": BASE, "verdict": verdict, "checks": []}
    with Attempt(store, identity.id) as attempt:
        attempt.write_json("decision.json", details)
        published = attempt.publish(
            Artifact(
                kind="Decision",
                name="gate",
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                attempt=attempt.name,
                files=attempt.seal(),
                details=details,
                provenance=provenance(time.time()),
            )
        )
    return published.id


def test_start_needs_the_gate(journal: Journal, store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollout(journal, *START) == 2
    assert "no evaluation decision lets" in capsys.readouterr().err
    assert journal.current().rollout is None
    decision = publish_decision(store, "pass")
    assert rollout(journal, *START, "--reason", "tuned reads well") == 0
    out = capsys.readouterr().out
    assert f"evaluation decision {decision} says pass" in out
    assert "error_rate" in out
    assert "expected:" in out
    state = journal.current()
    assert state.rollout is not None
    assert (state.rollout.decision, state.reason, state.weights["tuned"]) == (decision, "tuned reads well", 0)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_start_refuses_a_candidate_that_does_not_come_up(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dry: list[str]
) -> None:
    monkeypatch.setattr(operations, "SETTLE_S", 0.0)
    variant = VariantStatus(name="tuned", weight=0, share=0, state="failed", reason="no such adapter")
    status.write(journal.store, "docs", DeploymentStatus(version=1, variants=(variant,), written_at=time.time()))
    assert rollout(journal, *START, "--gate", "none", *dry) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "tuned does not come up: no such adapter" in error and "`raymill serve` it again" in error
    assert journal.current().rollout is None


def test_a_dry_run_begins_nothing(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    version = journal.current().version
    assert rollout(journal, *START, "--gate", "none", "--dry-run", "--users-per-minute", "6000") == 0
    assert "6e+03 new users a minute" in capsys.readouterr().out.replace("6,000", "6e+03")
    assert journal.current().version == version


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start"], "--candidate and --baseline missing"),
        (["start", "--candidate", "tuned", "--baseline", "tuned"], "two variants"),
        (["start", "--candidate", "nobody", "--baseline", "base"], "no variant is called 'nobody'"),
        ([*START, "--steps", "1,x"], "'x' is not a number"),
        ([*START, "--set", "minimum_unit=3"], "did you mean minimum_units?"),
        ([*START, "--aa"], "compares a model with itself"),
        (["pause"], "no rollout runs"),
        (["watch"], "no rollout was started"),
        (["history"], "no rollout was started"),
        (["weights", "base"], "VARIANT=WEIGHT"),
        (["weights", "base=1", "nobody=1"], "nobody"),
        (["weights", "base=abc"], "'abc' is not a number\n  for example base=90"),
        (["weights", "tuned=1"], "base has users and is not named"),
        ([*START, "--users-per-minute", "0"], "--users-per-minute: must be above 0"),
    ],
)
def test_mistakes(journal: Journal, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollout(journal, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_recipe_brings_its_rollout(journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "docs.yaml"
    recipe.write_text(
        f"""name: docs
store: {journal.store.url}
serving:
  variants:
  - {{name: base, model: {BASE}}}
  - {{name: tuned, model: {TUNED}, weight: 0}}
  rollout: {{candidate: tuned, baseline: base, steps: [10, 100], gate: none}}
""",
        encoding="utf-8",
    )
    assert run_command(["rollout", "start", "--recipe", str(recipe), "--set", "minimum_units=7"]) == 0
    state = journal.current()
    assert state.rollout is not None
    assert (state.rollout.config.steps, state.rollout.config.minimum_units) == ((10, 100), 7)
    recipe.write_text("name: docs\nserving: {}\n", encoding="utf-8")
    assert run_command(["rollout", "start", "--recipe", str(recipe)]) == 2
    assert "no `serving.rollout` section" in capsys.readouterr().err


def test_from_start_to_promotion(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollout(journal, *START, "--gate", "none", *QUICK, *RAILS) == 0
    for names in (["base=1", "tuned=1"], ["nobody=1"]):
        assert rollout(journal, "weights", *names) == 2
        assert "raymill rollout pause" in capsys.readouterr().err
    assert rollout(journal, *START) == 2
    out, err = capsys.readouterr()
    assert (out, "the rollout of tuned is running" in err) == ("", True)
    drive(journal, 5)
    assert rollout(journal, "status") == 0
    out = capsys.readouterr().out
    assert "base 50, tuned 50" in out
    assert "step 1 of 2 ([50] → 100 %)" in out
    assert rollout(journal, "pause", "--reason", "lunch") == 0
    assert rollout(journal, "weights", "base=3", "tuned=1") == 0
    assert rollout(journal, "resume") == 0
    drive(journal, 120)
    assert rollout(journal, "watch") == 0
    assert "tuned against base, promoted" in capsys.readouterr().out
    assert journal.current().weights == {"base": 0.0, "tuned": pytest.approx(4)}
    assert rollout(journal, "history") == 0
    out = capsys.readouterr().out
    for word in ("start", "pause", "lunch", "resume", "advance", "bake", "promote"):
        assert word in out
    assert rollout(journal, "replay") == 0
    assert "come out as recorded, with every number" in capsys.readouterr().out


def test_a_rollback_is_seen_in_json_and_in_the_exit_code(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollout(journal, *START, "--gate", "none", *QUICK, *RAILS) == 0
    drive(journal, 60, errors=0.5)
    capsys.readouterr()
    assert rollout(journal, "watch", "--json") == 1
    assert json.loads(capsys.readouterr().out)["rollout"]["status"] == "rolled_back"
    assert rollout(journal, "history", "--json") == 0
    decisions = json.loads(capsys.readouterr().out)
    assert decisions[-1]["what"] == "rollback"
    assert decisions[-1]["findings"][0]["metric"] == "error_rate"
    assert rollout(journal, "replay", "--json") == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True
    assert rollout(journal, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["weights"] == {"base": 100.0, "tuned": 0.0}
    assert run_command(["show", "--store", journal.store.url]) == 0
    assert "tuned against base: rolled back; tuned is worse than base" in capsys.readouterr().out


def test_the_record_says_the_number_of_users_that_was_given(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollout(journal, *START, "--gate", "none", "--users-per-minute", "7") == 0
    drive(journal, 1)
    assert "at 7 new users a minute" in journal.current().reason
    capsys.readouterr()
    assert rollout(journal, "status") == 0
    out = capsys.readouterr().out
    assert " ".join(out.split()).count("at 7 new users a minute") == 1, "the plan is said once"
    assert max(map(len, out.splitlines())) < 160
    drive(journal, 2)
    assert rollout(journal, "status") == 0
    assert len(capsys.readouterr().out.splitlines()[1]) < 200
    assert rollout(journal, "history", "--json") == 0
    assert "at 7 new users a minute" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "weights"), [("promote", (0, 100)), ("rollback", (100, 0))])
def test_people_end_it(journal: Journal, command: str, weights: tuple[int, int]) -> None:
    rollout(journal, *START, "--gate", "none")
    drive(journal, 3)
    assert rollout(journal, command, "--reason", "we know") == 0
    state = journal.current()
    assert (state.weights["base"], state.weights["tuned"]) == pytest.approx(weights)
    assert state.reason == "we know"


def test_a_tampered_record_fails_its_replay(
    journal: Journal, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    from serving.rollout.events import decode, encode

    rollout(journal, *START, "--gate", "none", *QUICK, *RAILS)
    drive(journal, 30)
    for item in list(store.files("deployments/docs/rollouts/")):
        events = decode(store.read(item.key), item.key)
        assert events is not None
        for event in events:
            if event["kind"] == "decision":
                event["decision"]["why"] = "because"
        store.write(item.key, encode(events))
    capsys.readouterr()
    assert rollout(journal, "replay") == 1
    assert "NOT as recorded: decisions 1, 2" in capsys.readouterr().out


GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "rollout.md").read_text(encoding="utf-8")


def test_the_guides_recipe_is_a_recipe() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
    config = ServingConfig.model_validate(parse_document(text, "docs/rollout.md").data["serving"])
    assert config.rollout is not None
    assert config.weights()[config.rollout.candidate] == 0


@pytest.mark.parametrize("line", re.findall(r"^raymill rollout .*$", GUIDE, re.M))
def test_the_guides_commands_are_commands(line: str) -> None:
    build_parser().parse_args(shlex.split(line, comments=True)[1:])
