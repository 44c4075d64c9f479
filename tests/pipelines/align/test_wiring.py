"""The recipe's section: what goes together, where it stands among the stages, what its identity is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.store import Store
from pipelines.align.config import AlignConfig, resolve
from pipelines.align.records import pairs_of_ratings, read_records
from pipelines.align.sources import reward_identity
from pipelines.cli import run_command
from pipelines.finetune.examples.records import Preference, Rated, asked
from pipelines.graph import build_graph, identities, select
from pipelines.recipe import Recipe, load_recipe

ROWS = """\
{"prompt": "say red", "chosen": "red", "rejected": "blue"}
{"prompt": "say old", "chosen": "old", "rejected": "x"}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "prefs.jsonl"
    path.write_text(ROWS)
    return path


def recipe(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_an_aligned_model_is_evaluated_and_served(tmp_path: Path, rows: Path) -> None:
    text = f"""
pretrain:
finetune:
align: {{method: dpo, data: {rows}}}
evals: {{benchmarks: sample}}
serving:
  variants: [{{name: aligned, model: "@align", weight: 100}}]
"""
    made = recipe(tmp_path, text)
    nodes = {node.name: node for node in build_graph(made)}
    assert nodes["align"].inputs == {"model": "finetune"}
    assert nodes["align"].stage.kind == "Model"
    assert nodes["evals-align"].inputs == {"model": "align", "corpus": "curate"}
    assert [node.name for node in select(list(nodes.values()), None, "align")[0]] == ["align"]
    assert identities(list(nodes.values()))["align"].id.startswith("Model/align-")


def test_a_reward_model_is_neither_evaluated_nor_served(tmp_path: Path, rows: Path) -> None:
    text = f"pretrain:\nalign: {{method: reward, data: {rows}}}\nevals:\n"
    nodes = {node.name: node for node in build_graph(recipe(tmp_path, text))}
    assert nodes["align"].inputs == {"model": "pretrain"}
    assert nodes["align"].stage.kind == "RewardModel"
    assert "evals-align" not in nodes
    with pytest.raises(UserError, match="@align is a reward model, which writes nothing"):
        recipe(tmp_path, text + 'serving:\n  variants: [{name: a, model: "@align", weight: 100}]\n')


def test_a_model_from_elsewhere_is_aligned_alone(tmp_path: Path, rows: Path, chat_model: Path) -> None:
    nodes = build_graph(recipe(tmp_path, f"align: {{model: {chat_model}, data: {rows}}}\nevals:\n"))
    assert [node.name for node in nodes] == ["align-base", "align", "evals-align", "evals-align-base"]
    assert nodes[1].inputs == {"model": "align-base"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("align:\n", "there is nothing to learn from"),
        ("pretrain: {architecture: bert}\ntokenizer: {mask_token: true}\nalign: {data: p.jsonl}\n", "not bert"),
        ("finetune: {method: prompt}\nalign: {data: p.jsonl}\n", "what prompt adds cannot be merged"),
        ("align: {method: grpo, data: p.jsonl}\n", "grpo needs a reward"),
        ("align: {method: dpo, data: p.jsonl, margin: 2}\n", "margin is for simpo, not for dpo"),
        ("align: {method: simpo, data: p.jsonl, reward: 'a:b'}\n", "reward is for grpo and ppo, not for simpo"),
        ("align: {method: grpo, data: p.jsonl, reward: 'a:b', answers_per_prompt: 1}\n", "set answers_per_prompt: 2"),
        ("align: {method: ppo, data: p.jsonl, reward: 'a:b', parallel: {shard: 2}}\n", "needs the whole model"),
        ("align: {data: p.jsonl, parallel: {tensor: 2}}\n", "align trains with parallel.data or parallel.shard"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_runs(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_graph(recipe(tmp_path, text))


def test_the_identity_has_what_the_rows_say_and_what_the_method_uses(rows: Path, tmp_path: Path) -> None:
    def identity(**fields: Any) -> dict[str, Any]:
        return resolve(AlignConfig.model_validate({"data": str(rows)} | fields))

    first = identity()
    assert first["beta"] == 0.1
    assert identity(beta=0.1) == first
    assert identity(beta=0.2) != first
    assert identity(method="simpo")["beta"] == 2.0
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / rows.name
    moved.write_text(ROWS)
    assert identity(data=str(moved)) == first
    rows.write_text(ROWS + ROWS)
    assert identity() != first


def test_a_rewards_identity_is_its_name_or_its_content(tmp_path: Path, chat_model: Path) -> None:
    assert reward_identity("my.module:score") == "my.module:score"
    assert reward_identity("RewardModel/align-0123456789ab") == "RewardModel/align-0123456789ab"
    assert reward_identity(str(chat_model)).startswith("sha256:")
    with pytest.raises(UserError, match="there is no model in it"):
        reward_identity(str(tmp_path))
    with pytest.raises(UserError, match="is no function, artifact or folder"):
        reward_identity(str(tmp_path / "nothing"))


def test_ratings_become_pairs_of_the_best_and_the_worst() -> None:
    rated = [
        Rated(asked("a"), text, rating, f"r:{number}")
        for number, (text, rating) in enumerate([("good", 4.0), ("bad", 1.0), ("middling", 3.0)])
    ]
    rated += [Rated(asked("b"), "one", 2.0, "r:4"), Rated(asked("b"), "two", 2.0, "r:5")]
    assert pairs_of_ratings(rated) == [Preference(asked("a"), "good", "bad", "r:0")]


def test_prompts_that_prefer_nothing_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [("a", "good", 4), ("a", "bad", 1), ("b", "alone", 3), ("c", "one", 2), ("c", "two", 2)]
    lines = [json.dumps(dict(zip(("prompt", "response", "rating"), row, strict=True))) + "\n" for row in rows]
    path.write_text("".join(lines))
    read = read_records(AlignConfig.model_validate({"data": str(path)}))
    assert read.records == [Preference(asked("a"), "good", "bad")] and read.alike == 2
    path.write_text("".join(lines[2:]))
    with pytest.raises(UserError, match=r"^r.jsonl:1: in 3 rated rows, .* no prompt has two answers with different"):
        read_records(AlignConfig.model_validate({"data": str(path)}))


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ('{"prompt": "p", "chosen": "a", "rejected": ""}', "prefs.jsonl:2: rejected is missing or empty"),
        ('{"prompt": "p", "chosen": "a"}', "prefs.jsonl:2: rejected is missing or empty"),
        ('{"prompt": "p", "chosen": "a", "rejected": "a"}', "prefs.jsonl:2: chosen and rejected are the same"),
        ('{"prompt": " ", "chosen": "a", "rejected": "b"}', "prefs.jsonl:2: prompt is empty"),
    ],
)
def test_rows_that_prefer_nothing_are_named_or_counted(rows: Path, second: str, told: str) -> None:
    rows.write_text(ROWS.splitlines()[0] + "\n" + second + "\n")
    config = AlignConfig.model_validate({"data": str(rows)})
    with pytest.raises(UserError, match=told):
        read_records(config)
    skipping = AlignConfig.model_validate({"data": {"kind": "jsonl", "path": str(rows), "bad_rows": "skip"}})
    read = read_records(skipping)
    assert len(read.records) == 1
    assert read.bad[0].startswith("prefs.jsonl:2: ")


def test_prompts_alone_are_enough_for_a_reward_and_not_for_pairs(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    paid = AlignConfig.model_validate({"method": "grpo", "reward": "a:b", "data": str(path)})
    assert {record.prompt for record in read_records(paid).records} == {asked("a"), asked("b")}
    with pytest.raises(UserError, match="the rows are prompts"):
        read_records(AlignConfig.model_validate({"data": str(path)}))


def test_without_data_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(UserError, match="there is nothing to learn from"):
        read_records(AlignConfig())


def test_the_plan_says_what_comes_of_it(tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"store: {tmp_path / 'store'}\npretrain:\nalign: {{method: dpo, data: {rows}}}\n")
    assert run_command(["plan", str(path)]) == 0
    assert "align trains adapters, merged at the end; it makes a whole model" in capsys.readouterr().out
    assert run_command(["plan", str(path), "--set", "align.method=reward"]) == 0
    assert "RewardModel/align-" in capsys.readouterr().out


def test_tasks_travel_to_the_workers(publish_model: Any, chat_model: Path, store: Store) -> None:
    import cloudpickle

    from pipelines.align.sources import Base
    from pipelines.align.task import PairTask, RolloutTask
    from pipelines.train.task import OwnObjective

    base = Base(publish_model(store, chat_model, "Model", "pretrain"))
    paid = AlignConfig.model_validate({"method": "grpo", "reward": "a:b"})
    for task in (PairTask(AlignConfig(), base, {"train": "t"}), RolloutTask(paid, base, {"train": "t"}, "plain")):
        again = cloudpickle.loads(cloudpickle.dumps(task))
        assert again == task
        assert isinstance(again, OwnObjective)
