"""Each method from its records to a written model, as a worker runs it, undisturbed and broken off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cluster.errors import UserError
from cluster.store_local import LocalStore
from pipelines.align.rewards import FunctionReward, ModelReward
from pipelines.finetune.examples.records import Preference, asked, to_jsonl
from tests.pipelines.one_process import measured

BRIEF = {"reward": "pipelines.align.simple_rewards:brief", "answer_tokens": 6}
DRAWN = BRIEF | {"updates_per_rollout": 2, "checkpoint_every_steps": 1}
"""Two steps on each drawing: a checkpoint after every step would fall between them."""

METHODS: dict[str, dict[str, Any]] = {
    "reward": {"method": "reward"},
    "dpo": {"method": "dpo"},
    "dpo, all weights": {"method": "dpo", "weights": "full", "learning_rate": 1e-3},
    "simpo": {"method": "simpo"},
    "grpo": {"method": "grpo", "answers_per_prompt": 3, "batch_sequences": 4} | DRAWN,
    "ppo": {"method": "ppo"} | DRAWN,
}
SELDOM = ("dpo, all weights", "simpo")
"""Whose way through a broken run is that of another one."""

TRIMMING = (
    "{% for m in messages %}{{ m.role }}:{{ m.content | trim }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in METHODS]
)
def test_a_run_that_is_broken_off_ends_with_the_same_bytes(make_bench: Callable[[str], Any], name: str) -> None:
    fields = METHODS[name] | {"steps": 6}
    whole, cut = make_bench("whole"), make_bench("cut")
    summary = whole.run(whole.task(**fields))
    with pytest.raises(KeyboardInterrupt):
        cut.run(cut.task(**fields), stop_at=6)
    again = cut.run(cut.task(**fields))
    assert again["resumed_at"] == 4
    assert measured(again) == measured(summary)
    assert len({each["loss"] for each in measured(summary)}) > 4
    assert cut.weights() == whole.weights()
    assert cut.weights() != whole.store.read(whole.model.key("model.safetensors"))


@pytest.mark.parametrize("method", ["dpo", pytest.param("simpo", marks=pytest.mark.slow)])
def test_preferences_with_a_rule_are_learned_and_the_result_is_one_model(bench: Any, method: str) -> None:
    summary = bench.run(bench.task(method=method, steps=20, checkpoint_every_steps=20, validation_every_steps=20))
    checks = [each for each in summary["records"] if each["kind"] == "validation"]
    assert checks[-1]["accuracy"] >= 0.8
    assert checks[-1]["margin"] > checks[0]["margin"]
    if method == "dpo":
        assert checks[0]["kl_per_token"] == pytest.approx(0.0, abs=1e-6)
        assert checks[0]["accuracy"] == 0.5  # no opinion yet: every pair is a tie
        assert checks[-1]["kl_per_token"] > 0.01
    folder = Path(bench.store.local_path("try"))
    loaded, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert "lora" not in "".join(name for name, _ in loaded.named_parameters())
    assert summary["details"]["export_difference"] <= 1e-4
    assert {"question", "preferred", "before", "after"} == set(summary["details"]["examples"][0])


def test_a_reward_model_ranks_held_out_pairs_and_pays_for_answers(bench: Any) -> None:
    summary = bench.run(bench.task(method="reward", steps=20, checkpoint_every_steps=20, validation_every_steps=20))
    checks = [each for each in summary["records"] if each["kind"] == "validation"]
    assert checks[-1]["accuracy"] >= 0.8
    folder = Path(bench.store.local_path("try"))
    model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())

    # Scored as it would be in GRPO or PPO, and by hand: the same numbers.
    reward = ModelReward(folder, "it", None, torch.device("cpu"))
    prompts = [asked("say red 3"), asked("say warm 4 and some more")]
    scores = reward.scores(prompts, ["red", "blue blue"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for messages, answer, score in zip(prompts, ["red", "blue blue"], scores, strict=True):
        turns = [{"role": "user", "content": messages[0].content}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            assert float(model.eval()(ids).logits[0, 0]) == pytest.approx(score, abs=1e-5)

    rollouts = bench.task(method="grpo", reward=str(folder), answers_per_prompt=2, answer_tokens=4, steps=2)
    bench.store.delete_all("try/resume")
    paid = bench.run(rollouts)
    assert all(each["reward"] != 0 for each in paid["records"] if each["kind"] == "train")
    assert paid["details"]["examples"][0].keys() == {"prompt", "answer", "reward"}


def with_rows(bench: Any, records: list[Preference]) -> None:
    bench.store.write(bench.rows["train"], to_jsonl(records).encode())


def test_rows_that_cannot_be_used_are_named(bench: Any) -> None:
    good = Preference(asked("say red"), "red", "blue", "prefs.jsonl:1")
    long = Preference(asked("say red"), "red " * 90, "blue", "prefs.jsonl:2")
    with_rows(bench, [good, long])
    with pytest.raises(UserError, match=r"^prefs\.jsonl:2: it has \d+ tokens, more than the 96 that fit"):
        bench.run(bench.task(steps=2))
    with_rows(bench, [good, Preference(asked("say red"), "red", "red ", "prefs.jsonl:3")])
    with pytest.raises(UserError, match=r"^prefs\.jsonl:3: chosen and rejected are the same tokens"):
        bench.run(
            bench.task(
                steps=2,
                template=TRIMMING,
            )
        )
    with_rows(bench, [good, long])
    assert bench.run(bench.task(steps=2, too_long="drop"))["details"]["too_long"] == 1
    with_rows(bench, [long])
    with pytest.raises(UserError, match="no row fits 96 tokens"):
        bench.run(bench.task(steps=2, too_long="drop"))


def test_a_prompt_without_room_for_its_answer_is_named(bench: Any) -> None:
    with_rows(
        bench,
        [Preference(asked("say red"), "a", "b", "p.jsonl:1"), Preference(asked("red " * 80), "a", "b", "p.jsonl:2")],
    )
    with pytest.raises(UserError, match=r"^p\.jsonl:2: with its answer it has \d+ tokens, more than the 96"):
        bench.run(bench.task(method="grpo", steps=2, reward=BRIEF["reward"], answer_tokens=40))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return [1.0]", "gave 1 numbers for 2 answers"),
        ("return [float('nan')] * len(answers)", "gave nan"),
        ("raise KeyError('x')", "fails: KeyError"),
        ("return [None for _ in answers]", "fails: TypeError"),
    ],
)
def test_a_reward_that_does_not_keep_its_contract_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    name = "reward_" + "".join(filter(str.isalnum, body))[:30]
    (tmp_path / f"{name}.py").write_text(f"def score(prompts, answers):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=told):
        FunctionReward(f"{name}:score").scores([asked("a"), asked("b")], ["x", "y"])


def test_a_model_that_writes_is_no_reward_model(bench: Any, chat_model: Path, store: LocalStore) -> None:
    with pytest.raises(UserError, match="is no reward model"):
        ModelReward(chat_model, str(chat_model), None, torch.device("cpu"))


def test_a_reward_model_without_a_longest_sequence_reads_all_that_was_said(chat_model: Path, tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForSequenceClassification

    torch.manual_seed(0)
    settings = BloomConfig(vocab_size=512, hidden_size=32, n_layer=1, n_head=2, num_labels=1, pad_token_id=2)
    BloomForSequenceClassification(settings).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(chat_model / name, tmp_path / name)
    reward = ModelReward(tmp_path, "judge", None, torch.device("cpu"))
    long = "red " * 200
    first, second = reward.scores([asked("say " + long), asked("see " + long)], ["red", "red"])
    assert first != second
