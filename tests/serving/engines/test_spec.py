"""Which servers a set of variants needs, and how each is started."""

import json

import pytest

from cluster.errors import UserError
from serving.config import EngineConfig
from serving.engines.spec import MIN_CACHE_BYTES, ServedModel, cache_bytes_for, plan_engines


@pytest.fixture
def folders(tmp_path):
    for name in ("base", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))
    for name, rank in (("lora4", 4), ("lora20", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return tmp_path


def value(words, flag):
    return words[words.index(flag) + 1]


def test_adapters_share_the_server_of_their_base_and_other_weights_get_their_own(folders):
    base, other = folders / "base", folders / "other"
    specs = plan_engines(
        [
            ServedModel("a", base),
            ServedModel("b", base, folders / "lora4"),
            ServedModel("c", other),
            ServedModel("d", folders / "." / "base", folders / "lora20"),
        ],
        EngineConfig(),
        "cpu",
    )
    assert [spec.variants for spec in specs] == [("a", "b", "d"), ("c",)]
    words = specs[0].command("127.0.0.1", 1234)
    assert value(words, "--max-lora-rank") == "32"  # the smallest that vLLM offers for rank 20
    assert words[words.index("--lora-modules") + 1 :] == [f"b={folders / 'lora4'}", f"d={folders / 'lora20'}"]
    assert value(words, "--served-model-name") == "a"
    assert "--enable-lora" not in specs[1].command("127.0.0.1", 1234)


def test_an_adapter_alone_still_gives_the_weights_a_name_of_their_own(folders):
    (spec,) = plan_engines([ServedModel("b", folders / "base", folders / "lora4")], EngineConfig(), "cpu")
    assert value(spec.command("h", 1), "--served-model-name") not in ("b", "")


def test_the_key_is_in_the_environment_and_not_on_the_command_line(folders):
    (spec,) = plan_engines([ServedModel("a", folders / "base")], EngineConfig(extra_arguments=("--x", "1")), "cpu")
    words = spec.command("127.0.0.1", 1)
    environment = spec.environment({"VLLM_CPU_KVCACHE_SPACE": "40", "HOME": "/h"}, "secret")
    assert "secret" not in " ".join(words)
    assert words[-2:] == ["--x", "1"]
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["HOME"] == "/h"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment  # whole GiB; it would override the cache's size


def test_dtype_auto_is_float32_on_a_cpu_and_left_to_vllm_on_a_gpu(folders):
    models = [ServedModel("a", folders / "base")]
    assert value(plan_engines(models, EngineConfig(), "cpu")[0].command("h", 1), "--dtype") == "float32"
    on_gpu = plan_engines(models, EngineConfig(), "gpu")[0].command("h", 1)
    assert value(on_gpu, "--dtype") == "auto"
    assert "--kv-cache-memory-bytes" not in on_gpu
    assert "--enforce-eager" not in on_gpu


def test_the_cache_holds_four_full_requests():
    settings = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048, "num_hidden_layers": 16}
    # by hand: key and value, 4 bytes, 16 layers, 8 heads of 64, 2048 tokens, 4 requests = 512 MiB
    assert cache_bytes_for(settings, EngineConfig(max_model_len=2048)) == 512 << 20
    assert cache_bytes_for({}, EngineConfig()) == MIN_CACHE_BYTES


@pytest.mark.parametrize(("folder", "adapter"), [("nowhere", None), ("base", "nowhere"), ("base", "base")])
def test_a_missing_folder_is_named_with_its_variant(folders, folder, adapter):
    model = ServedModel("tuned", folders / folder, folders / adapter if adapter else None, "Adapter/x")
    with pytest.raises(UserError) as caught:
        plan_engines([model], EngineConfig(), "cpu")
    assert "variant tuned (Adapter/x)" in caught.value.where
    assert str(folders / (adapter or folder)) in caught.value.what
