"""The official tasks on our rows: what the overlay says, and that the shortcuts change nothing and are undone."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from cluster.errors import InfraError
from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.official import HUB_REVISIONS, official_tasks
from evals.offline import offline
from evals.prompts import WRITTEN
from evals.read_once import files_read_once
from evals.tasks import load_tasks, quick_and_quiet, write_overlay

from .conftest import write_benchmarks


def test_official_tasks_are_61_and_say_what_they_read() -> None:
    tasks = {task.name: task for task in official_tasks(EvalsConfig().suites)}
    assert len(tasks) == 61
    assert sum(task.suite == "mmlu" for task in tasks.values()) == 57
    assert tasks["arc_challenge"].dataset == "allenai/ai2_arc"
    assert tasks["arc_challenge"].config == "ARC-Challenge"
    assert tasks["arc_challenge"].splits == ("test", "train")
    assert tasks["mmlu_anatomy"].splits == ("test", "dev")
    assert tasks["truthfulqa_mc2"].splits == ("validation",)
    assert {task.dataset for task in tasks.values()} == set(HUB_REVISIONS)


def test_from_the_hub_only_the_revision_is_added(tmp_path: Path) -> None:
    config = EvalsConfig(benchmarks="hub", suites=("arc_easy", "mmlu"))
    write_overlay(tmp_path, open_benchmarks(config), config)
    easy = (tmp_path / "arc_easy-arc_easy-0.yaml").read_text()
    assert f"revision: {HUB_REVISIONS['allenai/ai2_arc']}" in easy
    assert "custom_dataset" not in easy
    assert len((tmp_path / "mmlu-_mmlu-1.yaml").read_text().splitlines()) == 1  # a group: included as it is


def test_without_a_network_the_hubs_questions_are_no_mistake_of_the_task(tmp_path: Path) -> None:
    task = "task: own\ndataset_path: nobody/has-this-set\ntest_split: test\noutput_type: generate_until\n"
    (tmp_path / "own.yaml").write_text(task + "doc_to_text: question\ndoc_to_target: answer\n")
    config = EvalsConfig(benchmarks="hub", suites=("own",), tasks_folder=str(tmp_path))
    with pytest.raises(InfraError, match=r"nobody/has-this-set") as caught:
        load_tasks(open_benchmarks(config), config)
    assert "name a mirror" in caught.value.next_step


def test_cached_templates_give_identical_requests_and_are_undone(tmp_path: Path) -> None:
    import lm_eval.api.task
    import lm_eval.utils

    root = write_benchmarks(tmp_path / "set", ("arc_easy", "truthfulqa_mc2"))
    config = EvalsConfig(benchmarks=str(root), suites=("arc_easy", "truthfulqa_mc2"), num_fewshot=1)

    def requests() -> list[tuple[str, str]]:
        tasks = load_tasks(open_benchmarks(config), config)["tasks"].values()
        for task in tasks:
            task.build_all_requests()
        return [request.args for task in tasks for request in task.instances]

    bars, level = lm_eval.api.task.tqdm, logging.getLogger("lm_eval").level
    plain = requests()
    with quick_and_quiet():
        assert "from_string" in vars(lm_eval.utils.env)
        assert requests() == plain
    assert "from_string" not in vars(lm_eval.utils.env)
    assert (lm_eval.api.task.tqdm, logging.getLogger("lm_eval").level) == (bars, level)
    assert len(plain) == 3 * 4 + 3 * 4


def test_task_files_are_read_once_and_lm_evals_reader_is_put_back(tmp_path: Path) -> None:
    from lm_eval.tasks import _factory, _index, _yaml_loader

    template, own = tmp_path / "template", tmp_path / "own.yaml"
    template.write_text("a: {b: 1}\ntask_list: [x]\nc: 2\n")
    own.write_text("include: template\nc: 3\n")
    read, load = _yaml_loader.load_yaml, _yaml_loader._load_module_with_cache
    expected = read(own)
    with files_read_once():
        assert _index.load_yaml(own) == expected == {"a": {"b": 1}, "c": 3}
        template.unlink()
        again = _factory.load_yaml(own)
        assert again == expected
        again.pop("a")
        assert _index.load_yaml(own) == expected
        own.write_text("include: own.yaml\n")
        with pytest.raises(ValueError, match="Include cycle"):
            _index.load_yaml(own, resolve_func=False)
    assert _yaml_loader.load_yaml is _index.load_yaml is _factory.load_yaml is read
    assert _yaml_loader._load_module_with_cache is load


@pytest.mark.anchor
@pytest.mark.parametrize(
    ("suite", "shots"), [("arc_challenge", 25), ("mmlu", 5), ("truthfulqa_mc1", 0), ("arc_easy", 3)]
)
def test_real_prompts_are_the_stock_harness_s_to_the_letter(suite: str, shots: int, anchors: Path) -> None:
    """Worked examples that are written once, templates that are compiled once, and a random choice of examples."""
    config = EvalsConfig(benchmarks=str(anchors / "benchmarks"), suites=(suite,), num_fewshot=shots)

    def requests(limit: int) -> list[tuple[str, str]]:
        tasks = load_tasks(open_benchmarks(config), config)["tasks"]
        chosen = [tasks[name] for name in sorted(tasks)[:3]]
        for task in chosen:
            if stock:
                for name in WRITTEN:
                    vars(task).pop(name, None)
            task.build_all_requests(limit=limit)
        return [request.args for task in chosen for request in task.instances]

    stock = True
    expected = requests(6)
    stock = False
    with quick_and_quiet():
        assert requests(6) == expected
    assert len(expected) >= 24


@pytest.mark.anchor
def test_the_real_sets_have_their_published_sizes(anchors: Path) -> None:
    config = EvalsConfig(benchmarks=str(anchors / "benchmarks"))
    tasks = load_tasks(open_benchmarks(config), config)["tasks"]
    sizes = {name: len(task.eval_docs) for name, task in tasks.items()}
    assert (sizes["arc_easy"], sizes["arc_challenge"]) == (2376, 1172)
    assert sizes["truthfulqa_mc1"] == sizes["truthfulqa_mc2"] == 817
    assert sum(size for name, size in sizes.items() if name.startswith("mmlu")) == 14_042


def test_offline_is_said_inside_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with offline(False):
        assert not constants.HF_HUB_OFFLINE
    with offline():
        assert constants.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert not constants.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ
