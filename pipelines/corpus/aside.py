"""A helper process for parsers that input can stall or crash: each call has a bound on its CPU time and memory.

Libraries in C can neither be interrupted nor survived. A page nested 100,000 deep or a hostile PDF then costs the
helper its life, its input becomes a Problem, and the worker goes on with a new one. CPU time, and not the clock,
decides, so that a busy machine gives the same corpus as an idle one.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
from typing import IO, Any

from pipelines.corpus.documents import BadInput

MEMORY_BYTES = 4 << 30
_LENGTH = struct.Struct(">Q")


class Aside:
    """A helper that calls functions by name; it starts at the first call and ends with this process."""

    def __init__(self) -> None:
        self._helper: subprocess.Popen[bytes] | None = None

    def call(self, function: str, cpu_seconds: float, *arguments: Any) -> Any:
        """The value of ``module:function(*arguments)``.

        Raises:
            BadInput: the function raised one, or it took too long, or too much memory, or crashed.
        """
        helper = self._helper = self._helper or _start()
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            _send(helper.stdin, (function, cpu_seconds, arguments))
            answer = _receive(helper.stdout)
        except (EOFError, BrokenPipeError):
            self._helper = None
            raise _explain(helper.wait(), cpu_seconds) from None
        if isinstance(answer, BadInput):
            raise answer
        return answer

    def close(self) -> None:
        """End the helper, if there is one."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
            helper.wait()


def _start() -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.corpus.aside"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _explain(code: int, cpu_seconds: float) -> BadInput:
    if code == -signal.SIGPROF:
        return BadInput("takes_too_long", f"could not be taken apart in {cpu_seconds:g} seconds of CPU time")
    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
    return BadInput("crashes_parser", f"the library that reads it crashed ({name})")


def _send(stream: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def serve() -> None:
    """Answer calls until the other side goes away."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with answers
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the signal's own action ends the process, also inside C code
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    while True:
        try:
            function, cpu_seconds, arguments = _receive(sys.stdin.buffer)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        answer: object
        try:
            module, _, name = function.partition(":")
            answer = getattr(importlib.import_module(module), name)(*arguments)
        except BadInput as error:
            answer = error
        except MemoryError:
            answer = BadInput("too_large", "needs more memory than the parser may have")
        except Exception as error:  # noqa: BLE001 - whatever a parser raises is its input's problem
            answer = BadInput("unparsable", f"cannot be taken apart: {type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, answer)


ASIDE = Aside()
"""This process's helper."""

atexit.register(ASIDE.close)

if __name__ == "__main__":
    serve()
