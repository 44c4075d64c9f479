"""Why a job failed is told from real logs: whose words, which stage, what to do."""

from __future__ import annotations

from cluster.diagnosis import LINES, diagnose, last_stage

PROGRESS = "[corpus] reading …\n[corpus] reading  in 2.0s\n[curate] gates …\n[curate] gates  300/900 docs 33 %\n"


def test_our_own_error_is_the_error() -> None:
    log = PROGRESS + "error: s3://b/k: no room to write: No space left on device\n  free disk space, then repeat\nend\n"
    found = diagnose(log, 3)
    assert found.stage == "curate"
    assert found.error == "s3://b/k: no room to write: No space left on device"
    assert found.advice == "free disk space, then repeat"
    assert "error: s3://b/k: no room to write: No space left on device" in found.lines


def test_a_traceback_gives_its_last_line_and_its_cause() -> None:
    log = PROGRESS + (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in <module>\n'
        "    import theirs\n"
        "ModuleNotFoundError: No module named 'theirs'\n"
        "later\n"
    )
    found = diagnose(log, 1)
    assert found.error.endswith("ModuleNotFoundError: No module named 'theirs'")
    assert "not on the node" in found.error
    assert "image" in found.advice
    assert len(found.lines) <= LINES


def test_an_unknown_exception_is_given_as_it_is() -> None:
    log = PROGRESS + "Traceback (most recent call last):\n  File x\nValueError: seven is not a name\n"
    assert diagnose(log, 1).error == "ValueError: seven is not a name"


def test_a_killed_process_names_the_signal() -> None:
    found = diagnose(PROGRESS, 137)
    assert found.stage == "curate"
    assert found.error == "its process was ended by SIGKILL"
    assert "memory" in found.advice
    assert diagnose(PROGRESS, -15).error == "its process was ended by SIGTERM"


def test_memory_and_nodes_are_known_by_what_ray_says() -> None:
    memory = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\n"
    assert diagnose(PROGRESS + memory, 1).error.startswith("memory ran out")
    assert diagnose("", None, "Job supervisor actor died: ActorDiedError: ...").error.startswith("a node died")
    setup = diagnose("", None, "runtime_env setup failed: Failed to download")
    assert setup.error.startswith("the job's files could not be set up")


def test_nothing_said_is_still_answered() -> None:
    assert diagnose("", None).error == "it ended without a word"
    assert diagnose("plain\n", 9).lines == ("plain",)


def test_stages_are_read_from_progress_only() -> None:
    assert last_stage("[evals-pretrain] scoring …", "x") == "evals-pretrain"
    assert last_stage("(raylet) [2026-11-21] started", "x") == "x"
    assert last_stage("[2026-11-21 10:00] started", "x") == "x"
