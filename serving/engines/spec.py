"""How one vLLM server is started: its command line and its environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config import EngineConfig
from serving.control.state import EngineState

FULL_REQUESTS_CACHED = 4
MIN_CACHE_BYTES, MAX_CACHE_BYTES = 32 << 20, 4 << 30
CACHE_BLOCK_TOKENS = 128  # vLLM's block on a CPU; a request takes whole ones

INTERPRETERS_OWN = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "__PYVENV_LAUNCHER__")
SEARCH_PATHS = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD")

BESIDE = Path(__file__).with_name("beside")
"""On every server's PYTHONPATH, also where another interpreter runs it; see the package's text."""


@dataclass(frozen=True)
class ServerSpec:
    """One vLLM server on one node.

    Attributes:
        engine: what it serves and how.
        folder: the base model's folder on this node.
        device: ``cpu`` or ``gpu``.
        interpreter: the Python that has the vLLM to run.
    """

    engine: EngineState
    folder: Path
    device: str
    interpreter: str = sys.executable

    def command(self, host: str, port: int) -> list[str]:
        """The command line of vLLM's server. The key to it travels in the environment, not here.

        Adapters are not on it: they come and go while the server runs, the first ones too.
        """
        config, lora = self.engine.config, self.engine.lora
        arguments: dict[str, Any] = {
            "--model": self.folder,
            "--served-model-name": self.engine.name,
            "--host": host,
            "--port": port,
            "--max-num-seqs": config.max_num_seqs,
            "--dtype": "float32" if self.device == "cpu" and config.dtype == "auto" else config.dtype,
            "--middleware": "raymill_bearer.BearerGuard",  # vLLM's own key leaves paths open
            "--worker-extension-cls": "raymill_store.Loopback",  # torch's store would listen on every interface
        }
        if config.max_model_len is not None:
            arguments["--max-model-len"] = config.max_model_len
        if cache_bytes := config.kv_cache_bytes or self._cache_bytes():
            arguments["--kv-cache-memory-bytes"] = cache_bytes
        flags = ["--disable-uvicorn-access-log"]
        if self.device == "cpu":
            # In the engine's own process: a worker apart would import vLLM a third time (9 s of 28 s here).
            arguments["--distributed-executor-backend"] = "uni"
            flags.append("--enforce-eager")  # compiling takes longer than a small model ever saves
        if lora is not None:
            flags.append("--enable-lora")
            arguments |= {"--max-loras": lora.slots, "--max-lora-rank": lora.max_rank}
            if self.device == "cpu" and config.python is None:  # another interpreter has no package of ours
                arguments["--worker-extension-cls"] = "serving.engines.cpu_lora.KeepBaseApart"
        words = [self.interpreter, "-m", "vllm.entrypoints.openai.api_server", *flags]
        words += [str(part) for pair in arguments.items() for part in pair]
        return [*words, *config.extra_arguments]

    def environment(self, inherited: Mapping[str, str], key: str) -> dict[str, str]:
        """The server's environment: offline, quiet, one thread a CPU, and the key that requests must carry."""
        # VLLM_CPU_KVCACHE_SPACE counts whole GiB and would override --kv-cache-memory-bytes.
        kept = {name: value for name, value in inherited.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
        if self.engine.config.python is not None:
            kept = without_own_interpreter(kept, self.interpreter)
        kept |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(BESIDE), kept.get("PYTHONPATH")])),
            "VLLM_API_KEY": key,
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_HOST_IP": inherited.get("VLLM_HOST_IP", "127.0.0.1"),  # one server's processes are on one node
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # Whoever has the engine's key could load any folder as an adapter: only where adapters are meant to come.
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if self.engine.lora else "0",
        }
        if self.device == "cpu":
            kept |= {
                "OMP_NUM_THREADS": str(max(1, int(self.engine.config.cpus))),
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                # Even under --enforce-eager the sampler is compiled, at the first request: 16 s, and a C++ compiler.
                "TORCH_COMPILE_DISABLE": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what lets the "uni" executor stand on a CPU
            }
        return kept

    def _cache_bytes(self) -> int | None:
        if self.device != "cpu":
            return None
        return cache_bytes_for(_read_json(self.folder / "config.json"), self.engine.config)


def without_own_interpreter(
    environment: Mapping[str, str], interpreter: str, prefix: str = sys.prefix
) -> dict[str, str]:
    """The environment for another Python: nothing in it leads to this one's packages, programs or libraries."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in INTERPRETERS_OWN and not name.startswith("PYTHON")
    }
    # A system's interpreter shares its folders with everything else; only a virtual environment's are its own.
    own = "" if prefix == sys.base_prefix else prefix.rstrip("/") + "/"
    for name in SEARCH_PATHS:
        if own and name in kept:
            places = [place for place in kept[name].split(os.pathsep) if not f"{place}/".startswith(own)]
            kept[name] = os.pathsep.join(places)
            if not places:
                del kept[name]
    folder = str(Path(interpreter).parent)
    kept["PATH"] = os.pathsep.join([folder, *filter(None, [kept.get("PATH")])])
    return kept


def cache_bytes_for(settings: Mapping[str, Any], config: EngineConfig) -> int:
    """Bytes of key-value cache in which a few requests of full length fit (float32, no sharing between layers)."""
    heads = settings.get("num_attention_heads") or 1
    head_dim = settings.get("head_dim") or (settings.get("hidden_size") or 0) // heads
    kv_heads = settings.get("num_key_value_heads") or heads
    layers = settings.get("num_hidden_layers") or 0
    tokens = config.max_model_len or settings.get("max_position_embeddings") or 2048
    blocks = -(-tokens // CACHE_BLOCK_TOKENS) * CACHE_BLOCK_TOKENS
    needed = 2 * 4 * layers * kv_heads * head_dim * blocks * min(FULL_REQUESTS_CACHED, config.max_num_seqs)
    return min(max(needed, MIN_CACHE_BYTES), MAX_CACHE_BYTES)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the server itself says best what is wrong with the file
    return loaded if isinstance(loaded, dict) else {}
