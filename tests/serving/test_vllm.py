"""Real vLLM engines, end to end through the ``openai`` client: two variants on one engine, and refusals."""

import io
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

from cluster.errors import UserError
from cluster.progress import Progress
from serving.config import ServingConfig
from serving.control.deploy import Deployment, deploy
from serving.engines.spec import ServedModel
from serving.exercise import report
from serving.exercise.run import run_exercise

pytestmark = [pytest.mark.vllm, pytest.mark.ray]

DATA = Path(os.environ.get("RAYMILL_ANCHORS", Path(__file__).parents[2].parent / "shared")) / "data"
STORIES = DATA / "models" / "stories260K-hd32"


def bring_up(models: dict[str, ServedModel], **engine: object) -> Deployment:
    variants = [{"name": name, "model": "given", "weight": 1} for name in models]
    config = ServingConfig(port=0, variants=variants, engine=engine)
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        return deploy(config, models, tracker, name="tiny")


@pytest.fixture(scope="module")
def served(ray_session, tiny_models) -> Iterator[Deployment]:
    """A base model and an adapter on it."""
    models = {
        "base": ServedModel("base", tiny_models.base, None, "Model/tiny"),
        "tuned": ServedModel("tuned", tiny_models.base, tiny_models.adapter, "Adapter/tiny"),
    }
    with bring_up(models, max_model_len=128) as deployment:
        processes = [psutil.Process(deployment.status()[0].replicas[0].pid)]
        processes += processes[0].children(recursive=True)
        yield deployment
    assert psutil.wait_procs(processes, timeout=0)[1] == []


@pytest.fixture
def client(served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as each:
        yield each


def only(served, variant):
    served.set_weights({name: float(name == variant) for name in ("base", "tuned")})


def generated(folder: Path, adapter: Path | None, prompt: str, tokens: int) -> str:
    """What transformers (and peft) generate greedily: the oracle."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_both_variants_share_one_engine_and_say_what_transformers_say(served, client, tiny_models):
    base, tuned = served.status()
    assert base.replicas == tuned.replicas and len(base.replicas) == 1
    texts = {}
    for variant, adapter in (("base", None), ("tuned", tiny_models.adapter)):
        only(served, variant)
        prompt = "return the path of"
        got = client.completions.create(model="tiny", prompt=prompt, max_tokens=8, temperature=0)
        texts[variant] = got.choices[0].text
        # A random model may stop inside a character, which vLLM holds back.
        assert texts[variant] == generated(tiny_models.base, adapter, prompt, 8).rstrip("\ufffd")
    assert texts["base"] != texts["tuned"]


def test_chat_and_streams_give_the_same_text(served, client):
    only(served, "tuned")
    messages = [{"role": "user", "content": "a list of names"}]
    common = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**common).choices[0].message.content
    stream = list(client.chat.completions.create(**common, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices) == whole
    assert len(stream) > 4


def test_the_engines_own_errors_reach_the_client_as_openais(served, client):
    with pytest.raises(openai.BadRequestError, match="128"):
        client.completions.create(model="tiny", prompt="a " * 500, max_tokens=8)
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.completions.create(model="other", prompt="a")


def test_the_engine_answers_only_those_with_its_key(served):
    address = served.status()[0].replicas[0].address
    with openai.OpenAI(base_url=address + "/v1", api_key="guess", max_retries=0) as stranger:
        with_guess = stranger.models.with_raw_response
        with pytest.raises(openai.AuthenticationError):
            with_guess.list()


def test_the_exercise_passes_on_a_real_endpoint(served):
    served.set_weights({"base": 70, "tuned": 30})
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        record = run_exercise(served, tracker, requests=48, requests_after=18, max_tokens=4)
    assert record.passed, "\n".join(report.lines(record))
    assert len(record.calls) == 48 + 2 * 18
    assert {split.variant for split in record.splits("before") if split.users} == {"base", "tuned"}
    assert record.moved_users > 0
    assert all(math.isfinite(figure) for figure in record.metrics().values())
    assert all(call.first_token_seconds < call.seconds for call in record.calls if call.first_token_seconds)


def test_a_model_without_weights_is_refused_with_vllms_reason(ray_session, tiny_models, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_models.base, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        bring_up({"base": ServedModel("base", broken, None, "Model/broken")})
    assert "Cannot find any model weights" in caught.value.what
    assert "variant base" in caught.value.where
    log = Path(caught.value.next_step.split()[-1])
    assert log.stat().st_size > 1000
    shutil.rmtree(log.parent)


@pytest.mark.anchor
@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K-hd32 is not here (RAYMILL_ANCHORS or ../shared)")
def test_a_real_pretrained_model_tells_a_story(ray_session):
    # Golden: transformers' greedy continuation, from data/README.md's model.
    with (
        bring_up({"stories": ServedModel("stories", STORIES)}) as deployment,
        openai.OpenAI(base_url=deployment.url, api_key="none", max_retries=0) as client,
    ):
        got = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=16, temperature=0)
    assert got.choices[0].text == generated(STORIES, None, "Once upon a time", 16)
    assert got.choices[0].text.startswith(", there was a little girl named Lily")
    assert json.loads((STORIES / "config.json").read_text())["head_dim"] == 32
