"""Why a vLLM server gave up, read from its log."""

from __future__ import annotations

import re

# (EngineCore pid=1) ERROR 11-21 07:43:10 [core.py:1374] …
_PREFIX = re.compile(r"^(?:\([^)]*\bpid=\d+\)\s?)?(?:(?:ERROR|CRITICAL)\s+\S+\s+\S+\s+\[[^\]]*\]\s?)?")
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*(?:Error|Exception|Refused|Interrupt))\s*:\s*(\S.*)$")
_UNCOMMON = re.compile(
    r"^((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:: (.*))?$"
)  # struct.error, StopIteration: only below a traceback
_USAGE = re.compile(r"^\S*(?:api_server|vllm)\S*: error: (.+)$")  # argparse
_ECHOES = ("Engine core initialization failed", "EngineCore encountered an issue", "WorkerProc initialization failed")
"""Messages by which one process of vLLM reports that another failed; never the reason itself."""

_PASSING = re.compile(
    r"out ?of ?memory|MemoryError|cannot allocate memory|free memory on device|no space left|address already in use",
    re.IGNORECASE,
)

MAX_LENGTH = 300  # vLLM lists every architecture it knows where it does not know one


def reason(log: str) -> str:
    """The last meaningful error in a vLLM server's log, in one line; empty where there is none."""
    lines = [_PREFIX.sub("", line).rstrip() for line in log.splitlines()]
    found, below = "", False
    for index, line in enumerate(lines):
        raised, usage = _RAISED.match(line), _USAGE.match(line)
        if below and line and not line.startswith(" "):
            below = False
            uncommon = None if raised else _UNCOMMON.match(line)
            if uncommon:
                found = ": ".join(filter(None, uncommon.groups()))
        below = below or line == "Traceback (most recent call last):"
        if usage:
            found = usage.group(1)
        elif raised and not any(echo in line for echo in _ECHOES):
            found = _explained(raised.group(1), raised.group(2), lines[index + 1 :])
    return found if len(found) <= MAX_LENGTH else found[:MAX_LENGTH] + " …"


def may_pass(reason: str) -> bool:
    """Whether a reason lies with the machine at that moment and not with the model: memory, disk, a port."""
    return bool(_PASSING.search(reason))


def _explained(kind: str, message: str, following: list[str]) -> str:
    if kind == "ValidationError":  # pydantic: the reason stands, indented, below "1 validation error for …"
        details = [line.strip() for line in following[:4] if line.startswith("  ")]
        message = next((line for line in details if " " in line), message)
        message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
        message = re.sub(r"\s*\[type=.*$", "", message)
    return message if kind in ("ValidationError", "RuntimeError", "ValueError", "OSError") else f"{kind}: {message}"
