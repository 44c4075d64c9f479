"""Why a job failed, from what it left: the last stage, the error, and the lines of its log that matter."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

LINES = 12
"""Shown of a log at most."""
_STAGE = re.compile(r"^\[([a-z][a-z0-9._-]*)\] ")
_WORRYING = re.compile(
    r"error|exception|traceback|killed|out of memory|no space left|refused|denied|died|timed? ?out|fatal", re.IGNORECASE
)
_CAUSES = (
    (
        re.compile(r"OutOfMemoryError|out of memory|oom-kill|memory monitor", re.IGNORECASE),
        "memory ran out on a node",
        "give the nodes more memory, lower the stage's workers or batch size, then submit again; it continues",
    ),
    (
        re.compile(r"No space left on device|no room to write|ENOSPC", re.IGNORECASE),
        "a disk is full",
        "`raymill doctor --address …` says which; free space, then submit again; it continues",
    ),
    (
        re.compile(r"NodeDiedError|node .* (?:died|was terminated|is dead)|ActorDiedError", re.IGNORECASE),
        "a node died and the work could not be done elsewhere",
        "`raymill cluster status` shows the nodes; submit again; it continues from what is published",
    ),
    (
        re.compile(r"AuthenticationError|InvalidAuthToken|Unauthenticated", re.IGNORECASE),
        "the cluster refused the job's token",
        "every node needs the same token (RAY_AUTH_TOKEN_PATH); see `raymill doctor --address …`",
    ),
    (
        re.compile(r"ModuleNotFoundError: No module named|ImportError: "),
        "code that the job needs is not on the node",
        "submit from the folder that holds it (what .raymillignore names stays behind), or put it into the image",
    ),
    (
        re.compile(r"runtime_env setup failed|RuntimeEnvSetupError"),
        "the job's files could not be set up on the node",
        "the node must reach the head; `raymill jobs logs` shows the whole of it",
    ),
)
_SIGNALS = {137: "SIGKILL", -9: "SIGKILL", 143: "SIGTERM", -15: "SIGTERM", 139: "SIGSEGV", -11: "SIGSEGV"}


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, as far as it can be told.

    Attributes:
        stage: the last stage that the log names; empty where it names none.
        error: the error in a sentence or a few.
        advice: what to do about it.
        lines: the lines of the log that matter, in order.
    """

    stage: str
    error: str
    advice: str
    lines: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"lines": list(self.lines)}


def last_stage(line: str, current: str = "") -> str:
    """The stage that a line of progress names, or else the current one."""
    found = _STAGE.match(line)
    return found.group(1) if found else current


def diagnose(log: str, exit_code: int | None, message: str = "") -> Diagnosis:
    """Explain a failure.

    Args:
        log: the whole log, or its end.
        exit_code: of the job's process; None where nobody saw it end.
        message: what the cluster itself says about the end.
    """
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    stage = ""
    for line in lines:
        stage = last_stage(line, stage)
    error = _error_block(lines)
    if error:
        text = "\n".join(error)
        what = error[0].removeprefix("error: ")
        advice = " ".join(line.strip() for line in error[1:] if line.startswith("  "))
        cause = _cause(text)
        return Diagnosis(stage, what, advice or (cause[1] if cause else ""), _matter(lines, error))
    end = _traceback(lines)
    cause = _cause("\n".join([*end, *lines[-200:], message]))
    if cause:
        what = f"{cause[0]}: {end[-1]}" if end else cause[0]
        return Diagnosis(stage, what, cause[1], _matter(lines, end))
    if end:
        return Diagnosis(stage, end[-1], "please report it, with the log", _matter(lines, end))
    if exit_code in _SIGNALS:
        name = _SIGNALS[exit_code]
        return Diagnosis(stage, f"its process was ended by {name}", _after_signal(name), _matter(lines, []))
    first = message.strip().splitlines()[0] if message.strip() else ""
    told = first or (f"exit code {exit_code}" if exit_code is not None else "it ended without a word")
    return Diagnosis(stage, told, "submit again; it continues from what is published", _matter(lines, []))


def _after_signal(name: str) -> str:
    if name == "SIGKILL":
        return "often the kernel or Ray, when memory runs out: look at the node's memory; submit again, it continues"
    return "somebody stopped it, or its node went away; submit again, it continues"


def _cause(text: str) -> tuple[str, str] | None:
    return next(((what, advice) for pattern, what, advice in _CAUSES if pattern.search(text)), None)


def _error_block(lines: list[str]) -> list[str]:
    """Raymill's own last error: its line and the indented ones below."""
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return []
    block = [lines[starts[-1]]]
    for line in lines[starts[-1] + 1 :]:
        if not line.startswith("  "):
            break
        block.append(line)
    return block


def _traceback(lines: list[str]) -> list[str]:
    """The last traceback of Python, up to the line that names its exception."""
    starts = [
        index for index, line in enumerate(lines) if line.lstrip().startswith("Traceback (most recent call last)")
    ]
    if not starts:
        return []
    first = starts[-1]
    indent = len(lines[first]) - len(lines[first].lstrip())
    for index in range(first + 1, len(lines)):
        text = lines[index][indent:]
        if text and not text.startswith(" "):
            return lines[first : index + 1]
    return lines[first:]


def _matter(lines: list[str], core: list[str]) -> tuple[str, ...]:
    """The worrying lines before the core, and the core's end; the log's end where there are none."""
    chosen = core[-LINES:]
    if len(chosen) < LINES:
        rest = [line for line in lines if line not in set(core)]
        worrying = [line for line in rest if _WORRYING.search(line)] or rest
        chosen = worrying[-(LINES - len(chosen)) :] + chosen
    return tuple(chosen)
