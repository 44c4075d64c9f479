"""kill -9 of a Ray worker and of the driver: the same bytes as without, and no part that was finished is done again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, load_artifact, read_json
from cluster.store_local import LocalStore

pytestmark = pytest.mark.ray

SCRIPT = Path(__file__).parent / "killed_run.py"
NOTICE = "All rights to everything that was ever said here are reserved for whoever said it before anybody else did."
SETTINGS: dict[str, Any] = {
    "language": [],
    "repetition": None,
    "quality": ["gopher"],
    "gopher_quality": {"min_words": 5, "min_stop_words": 0},
    "audit": True,
    "dedup": {"minhash": {"words": "fast"}, "repeated_text": {"min_characters": 50}, "memory_bytes": 4096},
    "mix": {"sources": {"notes": {"max_documents": 6}}},
    "validation_fraction": 0.2,
    "workers": 2,
}
STEPS = (
    "tag_part",
    "match_range",
    "large_star",
    "small_star",
    "member_part",
    "keep_range",
    "passage_part",
    "repeat_range",
    "write_part",
    "_measure_part",
    "_mix_part",
)


@pytest.fixture
def corpus(make_corpus: Callable[..., Artifact]) -> Artifact:
    source = random.Random(7)
    words = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
    stories = [" ".join(source.choice(words) for _ in range(120)) for _ in range(12)]
    long = " ".join(stories[:3]).split()
    named = {f"own{i:02d}": text for i, text in enumerate(stories)}
    named |= {f"near{i}": " ".join(long[7 * i : 7 * i + 120]) for i in range(8)} | {"exact": stories[4].upper()}
    named |= {name: f"{named[name]}\n\n{NOTICE}" for name in ("own05", "own06", "own07")}
    return make_corpus(named | {"short": "Too short.", "void": "  "}, 4)


MADE = "made "


def run(store: LocalStore, corpus: Artifact, log: Path, *deaths: str) -> tuple[int, str]:
    """Exit code of a driver with those deaths, and the artifact's id, or what it says instead."""
    command = [sys.executable, str(SCRIPT), str(store.root), corpus.id, json.dumps(SETTINGS), str(log), *deaths]
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=480, env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    made = [line.removeprefix(MADE) for line in done.stdout.splitlines() if line.startswith(MADE)]  # Ray speaks, too
    return done.returncode, made[0] if made else done.stderr[-2000:]


def contents(store: LocalStore, artifact_id: str) -> dict[str, bytes]:
    made = load_artifact(store, artifact_id)
    assert made is not None
    funnel = read_json(store, made, "funnel.json")
    assert funnel["documents_in"] == funnel["kept"] + sum(funnel["dropped"].values()) == 23
    return {file.path: store.read(made.key(file.path)) for file in made.files}


def survive(store: LocalStore, corpus: Artifact, place: Path, *deaths: str) -> dict[str, bytes]:
    """What is made where those deaths happen; after each of the driver's the same command is given again."""
    log = place / "log"
    for _ in range(sum(each.startswith("driver") for each in deaths)):
        code, said = run(store, corpus, log, *deaths)
        assert code == -signal.SIGKILL, said
    code, said = run(store, corpus, log, *deaths)  # each happens once, and there is none left
    assert code == 0, said
    assert all((place / f"log.{each.replace(':', '.')}").exists() for each in deaths)
    assert max(Counter(log.read_text().splitlines()).values()) == 1
    return contents(store, said)


def test_a_worker_and_then_the_driver_are_killed(
    corpus: Artifact, store: LocalStore, tmp_path: Path, run_curate: Callable[..., Artifact]
) -> None:
    calm = run_curate(corpus, **SETTINGS)  # without Ray
    expected = contents(store, calm.id)
    store.delete_all(calm.id)
    assert survive(store, corpus, tmp_path, "worker:tag_part", "worker:large_star", "driver:write_part") == expected


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a Ray for each death of a driver, and one more
@pytest.mark.parametrize(
    ("victim", "steps"),
    [("worker", STEPS), ("driver", STEPS[:6]), ("driver", STEPS[6:])],
    ids=["workers", "first", "last"],
)
def test_killed_in_any_step(
    victim: str,
    steps: tuple[str, ...],
    corpus: Artifact,
    store: LocalStore,
    tmp_path: Path,
    run_curate: Callable[..., Artifact],
) -> None:
    calm = run_curate(corpus, **SETTINGS)
    expected = contents(store, calm.id)
    store.delete_all(calm.id)
    assert survive(store, corpus, tmp_path, *(f"{victim}:{step}" for step in steps)) == expected
