"""The process beside a worker: what is said to it, and what becomes of either when the other ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import InfraError, InternalError, UserError
from pipelines.align.config import AlignConfig
from pipelines.align.engine import Engine
from pipelines.align.engine_messages import Start
from pipelines.align.engine_settings import engine_environment, engine_options

PROGRAM = """
import sys
from multiprocessing.connection import Connection
from pipelines.align.engine_messages import Done, Written
from pipelines.align.engine_process import serve

class Echo:
    version = 0
    def __init__(self, start):
        self.how = start.options["how"]
        if self.how == "refuse":
            raise ValueError("1 error of VllmConfig\\n  Value error, no such model [type=value_error]\\nand more")
    def take(self, weights):
        import safetensors
        with safetensors.safe_open(weights.path, "numpy") as file:
            self.value = float(file.get_tensor("w").sum())
        if self.how != "keep":
            self.version = weights.version
        return Done(self.version)
    def answer(self, ask):
        if self.how == "die":
            print("a reason in the log", flush=True)
            raise MemoryError("no room")
        return Written([[seed, *ids] for seed, ids in zip(ask.seeds, ask.prompts)], [[self.value]], self.version)

serve(Connection(int(sys.argv[1])), Echo)
"""
COMMAND = [sys.executable, "-c", PROGRAM]


def gone(pid: int) -> bool:
    """Whether a process has ended; of one that nobody waits for, that it does nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def started(how: str = "") -> Engine:
    return Engine(
        Start("folder", {"how": how}), engine_environment(os.environ, torch.device("cpu"), 1), "align", COMMAND
    )


def test_it_has_the_weights_that_were_pushed_last() -> None:
    engine = started()
    for value in (1.0, 5.0):
        version = engine.push({"w": torch.full((2,), value)})
        written = engine.answer([[7, 8]], [3], [], 4, 1.0)
        assert written.answers == [[3, 7, 8]]
        assert written.logprobs == [[2 * value]]
        assert written.version == version
    assert version == 2
    engine.close()
    assert gone(engine.pid)


def test_answers_of_other_weights_are_not_taken() -> None:
    engine = started("keep")
    with pytest.raises(InternalError, match="weights of version 0, and training is at 1"):
        engine.push({"w": torch.ones(1)})
    engine.close()


def test_what_it_refuses_is_said_with_its_reason() -> None:
    with pytest.raises(
        UserError, match=r"^align\.generation: vllm: vLLM does not run this model: no such model\n"
    ) as raised:
        started("refuse")
    assert raised.value.next_step == "set align.generation: transformers"


def test_an_engine_that_ends_is_no_fault_of_the_users() -> None:
    engine = started("die")
    engine.push({"w": torch.ones(1)})
    with pytest.raises(InfraError, match="the vLLM engine beside a training worker ended") as raised:
        engine.answer([[1]], [1], [], 1, 1.0)
    assert "a reason in the log" in raised.value.attempts
    assert "MemoryError: no room" in raised.value.attempts
    engine.close()

    engine = started()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(InfraError, match="ended"):
        engine.push({"w": torch.ones(1)})
    engine.close()


def test_it_ends_with_what_held_it() -> None:
    engine = started()
    pid = engine.pid
    assert not gone(pid)
    del engine
    gc.collect()
    assert gone(pid)


def until(true: Callable[[], bool]) -> None:
    """Wait; the test's own time limit ends what never comes."""
    while not true():
        time.sleep(0.02)


def test_it_ends_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time, torch\n"
        "from pipelines.align.engine import Engine\nfrom pipelines.align.engine_messages import Start\n"
        "from pipelines.align.engine_settings import engine_environment\n"
        "environment = engine_environment(os.environ, torch.device('cpu'), 1)\n"
        f"engine = Engine(Start('', {{'how': ''}}), environment, 'align', {COMMAND!r})\n"
        "print(engine.pid, flush=True)\ntime.sleep(600)\n"
    )
    environment = engine_environment(os.environ, torch.device("cpu"), 1)
    with subprocess.Popen([sys.executable, str(worker)], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.kill()
    until(lambda: gone(pid))


def test_its_environment_is_none_of_trainings() -> None:
    given = {"RANK": "1", "MASTER_ADDR": "x", "VLLM_CPU_KVCACHE_SPACE": "4", "KEPT": "1", "PYTHONPATH": "elsewhere"}
    found = engine_environment(given, torch.device("cpu"), 3)
    assert not {"RANK", "MASTER_ADDR", "VLLM_CPU_KVCACHE_SPACE"} & found.keys()
    assert found["KEPT"] == "1"
    assert found["OMP_NUM_THREADS"] == "3"
    assert str(Path(__file__).parents[3]) in found["PYTHONPATH"].split(os.pathsep)


@pytest.mark.parametrize(("visible", "index", "expected"), [("4,6", 1, "6"), ("GPU-a", 0, "GPU-a"), (None, 2, "2")])
def test_it_computes_on_its_workers_gpu(visible: str | None, index: int, expected: str) -> None:
    given = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = engine_environment(given, torch.device("cuda", index), 1)
    assert found["CUDA_VISIBLE_DEVICES"] == expected
    assert "TORCH_COMPILE_DISABLE" not in found


def test_its_options_follow_the_device_and_the_model() -> None:
    def config(**fields: Any) -> AlignConfig:
        return AlignConfig.model_validate({"method": "grpo", "reward": "a:b"} | fields)

    model = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 4}
    options = engine_options(config(), model, 200, "cpu")
    assert options["dtype"] == "float32"
    # Keys and values of 4 bytes, 4 layers, 8 heads of 128, 64 answers of two blocks of 128 tokens.
    assert options["kv_cache_memory_bytes"] == 2 * 4 * 4 * 8 * 128 * 64 * 256
    assert engine_options(config(), {}, 200, "cpu")["kv_cache_memory_bytes"] == 64 << 20
    options = engine_options(config(gpus_per_worker=1, generation_memory=0.5), model, 200, "cuda")
    assert (options["dtype"], options["gpu_memory_utilization"]) == ("bfloat16", 0.5)
    assert engine_options(config(gpus_per_worker=1, precision="fp32"), model, 200, "cuda")["dtype"] == "float32"
    assert "kv_cache_memory_bytes" not in options
