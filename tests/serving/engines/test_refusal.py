"""The reason is found in real logs of vLLM 0.29 (shortened to the lines around the error)."""

import pytest

from serving.engines.refusal import MAX_LENGTH, may_pass, reason

NO_WEIGHTS = """\
(APIServer pid=7880) WARNING 11-21 07:42:57 [system_utils.py:299] Found ulimit of 20000 and failed to automatically \
increase with error current limit exceeds maximum limit. This can cause errors like `OSError: [Errno 24] Too many open`
(EngineCore pid=7949) ERROR 11-21 07:43:10 [core.py:1374]     raise RuntimeError(
(EngineCore pid=7949) ERROR 11-21 07:43:10 [core.py:1374] RuntimeError: Cannot find any model weights with `/m/base`
(EngineCore pid=7949) Traceback (most recent call last):
(EngineCore pid=7949) RuntimeError: Cannot find any model weights with `/m/base`
(APIServer pid=7880)     raise RuntimeError(
(APIServer pid=7880) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
UNKNOWN_ARCHITECTURE = """\
(APIServer pid=8109)     s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
(APIServer pid=8109) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=8109)   Value error, Model architectures ['NoSuchModelForCausalLM'] are not supported for now. [type=v]
(APIServer pid=8109)     For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
BAD_JSON = """\
(APIServer pid=8182) json.decoder.JSONDecodeError: Invalid control character at: line 1 column 7 (char 6)
(APIServer pid=8182) During handling of the above exception, another exception occurred:
(APIServer pid=8182)     raise OSError(f"It looks like the config file at '{resolved_config_file}' is not valid.")
(APIServer pid=8182) OSError: It looks like the config file at '/m/config.json' is not a valid JSON file.
"""
HEAD_DIM = """\
(EngineCore pid=8343) ERROR 11-21 07:43:53 [core.py:1376] RuntimeError: Unsupported CPU attention configuration: \
head_dim=8 isa=1 kv_cache_idx=0
(APIServer pid=8256) ERROR 11-21 07:43:53 [async_llm.py:819] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue. See stack trace (above) for the root cause.
(APIServer pid=8256) INFO:     127.0.0.1:54442 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error
"""
BAD_WEIGHTS = """\
(APIServer pid=24874) Traceback (most recent call last):
(APIServer pid=24874)   File "/v/transformers_utils/repo_utils.py", line 291, in _read_safetensors_metadata_in_dir
(APIServer pid=24874)     length_of_metadata = struct.unpack("<Q", size_bytes)[0]
(APIServer pid=24874)                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
(APIServer pid=24874) struct.error: unpack requires a buffer of 8 bytes
"""
USAGE = "usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --no-such-flag\n"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (BAD_WEIGHTS, "struct.error: unpack requires a buffer of 8 bytes"),
        (NO_WEIGHTS, "Cannot find any model weights with `/m/base`"),
        (UNKNOWN_ARCHITECTURE, "Model architectures ['NoSuchModelForCausalLM'] are not supported for now."),
        (BAD_JSON, "It looks like the config file at '/m/config.json' is not a valid JSON file."),
        (HEAD_DIM, "Unsupported CPU attention configuration: head_dim=8 isa=1 kv_cache_idx=0"),
        (USAGE, "unrecognized arguments: --no-such-flag"),
        ("(EngineCore pid=1) KeyError: 'lm_head'", "KeyError: 'lm_head'"),
        ("INFO all is well\n", ""),
        ("", ""),
    ],
)
def test_the_last_meaningful_error_is_the_reason(log, expected):
    assert reason(log) == expected


def test_a_very_long_reason_is_cut():
    assert len(reason("ValueError: " + "x" * 5000)) <= MAX_LENGTH + 2


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),  # torch's words
        ("Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than desired GPU memory utilization", True),
        ("[Errno 28] No space left on device", True),
        ("MemoryError: x", True),
        ("Cannot find any model weights with `/m/base`", False),
        ("unrecognized arguments: --no-such-flag", False),
    ],
)
def test_what_lies_with_the_machine_may_pass(why, expected):
    assert may_pass(why) is expected
