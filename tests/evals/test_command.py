"""`raymill eval` and `raymill benchmarks`: mistakes are one message and exit code 2, before Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.store_local import LocalStore
from evals.mirroring import mirror_suites
from pipelines.cli import run_command
from pipelines.commands.eval import summary

from .conftest import write_benchmarks


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model's folder and a mirror; Ray must not be started in it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    mirror_suites(str(write_benchmarks(tmp_path / "source", ("arc_easy",))), str(tmp_path / "mirror"), ("arc_easy",))
    monkeypatch.chdir(tmp_path)

    def started(*_arguments: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("pipelines.commands.eval.connect", started)
    return tmp_path


def evaluate(*more: str) -> int:
    return run_command(["eval", "model", "--benchmarks", "mirror", "--store", "store", *more])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "arc_esay"], "unknown task 'arc_esay'; did you mean arc_easy?"),
        (["--preset", "leaderbord"], "unknown preset 'leaderbord'; known: leaderboard, bias"),
        (["--suite", "arc_easy", "--limit", "0"], "limit"),
        (["--suite", "arc_easy", "--limit", "3", "--sample", "3"], "not allowed with"),
        (["--suite", "arc_easy", "--tasks", "nowhere"], "no such folder"),
        (["--suite", "mmlu"], "cais/mmlu/README.md: is missing"),
        (["--suite", "arc_easy", "--base", "model"], "takes no base"),
        (["--suite", "arc_easy", "--variant", "tuned"], "is for a served URL"),
        (["--suite", "arc_easy", "--share-prefixes", "--backend", "vllm"], "vLLM does it by itself"),
        (["--suite", "arc_easy", "--set", "batch=3"], "unknown key; did you mean batch_size?"),
    ],
)
def test_mistakes_are_explained_at_once(
    place: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*words) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda mirror: next(mirror.rglob("test-*.jsonl")).write_text("{}"), "and manifest.json says"),
        (lambda mirror: next(mirror.rglob("test-*.jsonl")).unlink(), "ARC-Easy, split test: its files are missing"),
        (lambda mirror: (mirror / "manifest.json").write_text("{"), "is not a mirror's manifest"),
    ],
)
def test_a_damaged_mirror_is_refused_by_file(
    place: Path, damage: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(place / "mirror")
    assert evaluate("--suite", "arc_easy") == 2
    assert said in capsys.readouterr().err


def test_mirroring_says_what_it_copied_and_how_to_use_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmarks", "mirror", "other", "--from", "mirror", "--suite", "arc_easy"]
    assert run_command(words) == 0
    assert "raymill eval MODEL --benchmarks other" in capsys.readouterr().out
    assert (place / "other" / "manifest.json").is_file()
    assert run_command([*words, "--suite", "arc_esay"]) == 2
    assert "did you mean arc_easy" in capsys.readouterr().err
    assert run_command([*words, "--preset", "leaderbord"]) == 2
    assert "--preset: unknown preset 'leaderbord'\n  known: leaderboard, bias" in capsys.readouterr().err


def test_what_is_printed_last_has_every_score_what_was_cut_off_and_what_it_took(tmp_path: Path) -> None:
    figures = {"score": 0.25, "stderr": 0.05, "interval_95": [0.15, 0.35], "chance": 0.25, "n": 40}
    own = {"score": 0.5, "interval_95": None, "n": 4}
    results = {
        "benchmarks": "mirror",
        "tasks": {"arc_easy": {"acc": figures}},
        "subtasks": {},
        "sets": {"tickets": {"metrics": {"f1": own}}},
        "requests": 1600,
        "truncated_requests": 36,
        "context_tokens": 256,
    }
    tasks = {
        "arc_easy": {"input_tokens": 12_000, "output_tokens": 0},
        "tickets": {"input_tokens": 500, "output_tokens": 7},
    }
    usage = {"seconds": 61.5, "cost": 0.0214, "prices": {"worker_hour": 0.5}, "tasks": tasks}
    artifact = SimpleNamespace(id="EvalReport/evals-0123", key=lambda path: f"EvalReport/evals-0123/{path}")
    lines = summary(LocalStore(tmp_path), artifact, results, usage)  # type: ignore[arg-type]
    table = lines[0].splitlines()
    assert table[2].split() == ["arc_easy", "(mirror)", "acc", "0.25", "0.05", "0.1500", "to", "0.3500", "0.25", "40"]
    assert table[3].split() == ["tickets", "f1", "0.5", "4"]
    assert any(line.startswith("36 of 1,600 requests were longer than the model's context of 256") for line in lines)
    assert "61.5 s, 12,500 tokens read, 7 written, cost 0.0214" in lines
    assert lines[-1].endswith("EvalReport/evals-0123/report.html")
    counts = {"rate": 0.5, "left_rate": 0.025}
    seen = {"contamination": {"suites": {"arc_easy": counts}, "tasks": {}}}
    table = summary(LocalStore(tmp_path), artifact, results | seen, usage)[0].splitlines()  # type: ignore[arg-type]
    assert [table[2].split()[-2:], table[3].split()[-3:]] == [["50.0%", "2.5%"], ["not", "looked", "for"]]
    assert "cost" not in "".join(summary(LocalStore(tmp_path), artifact, results, usage | {"prices": {}}))  # type: ignore[arg-type]
