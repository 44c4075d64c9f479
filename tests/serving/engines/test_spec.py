"""How a vLLM server is started: its command line and its environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import EngineConfig
from serving.control.state import EngineState, LoraCapacity, ModelSource
from serving.engines.spec import BESIDE, MIN_CACHE_BYTES, ServerSpec, cache_bytes_for, without_own_interpreter


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))

    def make(device="cpu", lora=None, interpreter=sys.executable, **config):
        source = ModelSource(folder=str(tmp_path))
        engine = EngineState(name="base", source=source, config=EngineConfig(**config), lora=lora)
        return ServerSpec(engine, tmp_path, device, interpreter)

    return make


def value(words, flag):
    return words[words.index(flag) + 1]


def test_the_base_weights_answer_to_the_engines_name(spec, tmp_path):
    words = spec().command("127.0.0.1", 1234)
    assert words[0] == sys.executable
    assert value(words, "--served-model-name") == "base"
    assert value(words, "--model") == str(tmp_path)
    assert (value(words, "--host"), value(words, "--port")) == ("127.0.0.1", "1234")


def test_adapters_can_come_at_runtime_only_where_there_is_room_for_them(spec):
    without, with_room = spec(), spec(lora=LoraCapacity(slots=3, max_rank=32))
    words = with_room.command("h", 1)
    assert (value(words, "--max-loras"), value(words, "--max-lora-rank")) == ("3", "32")
    assert "--enable-lora" in words
    assert with_room.environment({}, "k")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "--enable-lora" not in without.command("h", 1)
    assert value(words, "--worker-extension-cls") == "serving.engines.cpu_lora.KeepBaseApart"
    room = LoraCapacity(slots=1, max_rank=8)
    for other in (spec(device="gpu", lora=room), spec(python="/other/python", lora=room), without):
        assert value(other.command("h", 1), "--worker-extension-cls") == "raymill_store.Loopback"
    inherited = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    assert without.environment(inherited, "k")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"


def test_processes_of_an_engine_meet_on_loopback_unless_the_node_says_where(spec):
    assert spec().environment({}, "k")["VLLM_HOST_IP"] == "127.0.0.1"
    assert spec().environment({"VLLM_HOST_IP": "10.0.0.1"}, "k")["VLLM_HOST_IP"] == "10.0.0.1"


def test_what_a_worker_is_told_to_load_replaces_torchs_store_without_a_package_of_ours(tmp_path):
    loads = (
        "import raymill_store, sys, importlib;"
        "print(importlib.import_module('torch.distributed.rendezvous')._create_c10d_store.__module__,"
        "'cluster' in sys.modules)"
    )
    words = [sys.executable, "-c", loads]
    environment = os.environ | {"PYTHONPATH": str(BESIDE), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.split() == ["raymill_torch_store", "False"]


def test_the_key_is_in_the_environment_and_not_on_the_command_line(spec):
    made = spec(extra_arguments=("--runner", "pooling"))
    words = made.command("127.0.0.1", 1)
    environment = made.environment({"VLLM_CPU_KVCACHE_SPACE": "40", "HOME": "/h"}, "secret")
    assert "secret" not in " ".join(words)
    assert words[-2:] == ["--runner", "pooling"]
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["HOME"] == "/h"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment  # whole GiB; it would override the cache's size


def test_dtype_auto_is_float32_on_a_cpu_and_left_to_vllm_on_a_gpu(spec):
    assert value(spec().command("h", 1), "--dtype") == "float32"
    on_gpu = spec(device="gpu").command("h", 1)
    assert value(on_gpu, "--dtype") == "auto"
    assert "--kv-cache-memory-bytes" not in on_gpu
    assert "--enforce-eager" not in on_gpu


def test_another_interpreter_finds_nothing_of_this_one(spec):
    made = spec(python="/other/bin/python", interpreter="/other/bin/python")
    assert made.command("h", 1)[0] == "/other/bin/python"
    inherited = {"PYTHONPATH": "/mine", "VIRTUAL_ENV": sys.prefix, "PATH": "/usr/bin", "HOME": "/h"}
    environment = made.environment(inherited, "k")
    assert environment["PATH"] == "/other/bin:/usr/bin"
    assert environment["HOME"] == "/h"
    assert environment["PYTHONPATH"] == str(BESIDE)
    assert "VIRTUAL_ENV" not in environment
    assert spec().environment(inherited, "k")["PYTHONPATH"] == f"{BESIDE}:/mine"  # its own interpreter may need it


def test_places_in_this_virtual_environment_leave_the_search_paths():
    environment = {
        "PATH": "/venv/bin:/usr/bin:/venv-two/bin",
        "LD_LIBRARY_PATH": "/venv/lib",
        "PYTHONHASHSEED": "0",
        "__PYVENV_LAUNCHER__": "x",
    }
    kept = without_own_interpreter(environment, "/other/bin/python", prefix="/venv")
    assert kept == {"PATH": "/other/bin:/usr/bin:/venv-two/bin"}
    # A system's interpreter is at home in /usr: taking that away would take everything away.
    system = without_own_interpreter({"PATH": "/usr/bin"}, "/other/bin/python", prefix=sys.base_prefix)
    assert system == {"PATH": "/other/bin:/usr/bin"}


def test_the_cache_holds_four_full_requests():
    settings = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048, "num_hidden_layers": 16}
    # by hand: key and value, 4 bytes, 16 layers, 8 heads of 64, 2048 tokens, 4 requests = 512 MiB
    assert cache_bytes_for(settings, EngineConfig(max_model_len=2048)) == 512 << 20
    assert cache_bytes_for({}, EngineConfig()) == MIN_CACHE_BYTES


def test_an_unreadable_description_is_left_to_vllm_to_complain_of(spec, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert value(spec().command("h", 1), "--kv-cache-memory-bytes") == str(MIN_CACHE_BYTES)
    assert Path(value(spec().command("h", 1), "--model")) == tmp_path
