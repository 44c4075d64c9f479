"""From the recipe's evals section to the corpus: the questions are a stage of their own that curation reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UserError
from pipelines.cli import run_command
from pipelines.graph import build_graph, identities, select
from pipelines.recipe import Recipe, load_recipe

ON = "curate.decontaminate=true"


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo.yaml", overrides)


def corpus_identity(*overrides: str) -> str:
    return identities(build_graph(recipe(*overrides)))["curate"].fingerprint


def test_the_plan_shows_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"store={tmp_path / 'store'}"
    assert run_command(["plan", "demo.yaml", "--set", store, "--set", ON]) == 0
    assert "BenchmarkText/benchmark-text-" in capsys.readouterr().out
    assert run_command(["plan", "demo.yaml", "--set", store, "--set", "curate.decontaminate=false"]) == 0
    assert "benchmark-text" not in capsys.readouterr().out


def test_curation_reads_the_questions() -> None:
    nodes = {node.name: node for node in build_graph(recipe(ON))}
    assert list(nodes)[:3] == ["corpus", "benchmark-text", "curate"]
    assert nodes["curate"].inputs == {"corpus": "corpus", "benchmarks": "benchmark-text"}
    assert nodes["benchmark-text"].inputs == {}


def test_what_evals_asks_is_part_of_the_corpus_only_where_it_is_looked_for() -> None:
    fewer = "evals.suites=[arc_easy, mmlu]"
    assert corpus_identity(ON) != corpus_identity()
    assert corpus_identity(ON, fewer) != corpus_identity(ON)
    assert corpus_identity("curate.decontaminate=false", fewer) == corpus_identity("curate.decontaminate=false")
    assert corpus_identity(fewer) == corpus_identity()
    assert corpus_identity("curate.decontaminate.ngram=13") == corpus_identity(ON)
    assert corpus_identity("curate.decontaminate.ngram=10") != corpus_identity(ON)


def test_how_evals_asks_leaves_the_corpus_alone() -> None:
    assert corpus_identity(ON, "evals.limit=3", "evals.batch_size=2") == corpus_identity(ON)


def test_the_stage_is_selected_with_curation() -> None:
    nodes = build_graph(recipe(ON))
    assert [node.name for node in select(nodes, None, "curate")[0]] == ["benchmark-text", "curate"]
    assert [node.name for node in select(nodes, "curate", None)[0]] == ["corpus", "benchmark-text", "curate"]
    assert [node.name for node in select(nodes, "corpus", None)[0]] == ["corpus"]


def test_only_curation_needs_a_published_corpus_and_no_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"store={tmp_path / 'store'}"
    assert run_command(["run", "demo.yaml", "--only", "curate", "--set", store, "--set", ON]) == 2
    assert "its input is not published: corpus\n" in capsys.readouterr().err


def test_without_an_evals_section_there_is_nothing_to_look_for(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("curate:\n  decontaminate: {}\n")
    with pytest.raises(UserError, match="the recipe has no evals section"):
        build_graph(load_recipe(path))
    assert run_command(["plan", str(path)]) == 2


def test_weights_of_sources_change_the_mixture_and_read_nothing_again() -> None:
    def found(weight: str, *overrides: str) -> dict[str, str]:
        source = f"corpus.sources=[{{kind: python-docs, max_bytes: 15000000{weight}}}]"
        return {name: each.fingerprint for name, each in identities(build_graph(recipe(source, *overrides))).items()}

    plain, half = found(""), found(", weight: 0.5")
    assert half["corpus"] == plain["corpus"]
    assert half["curate"] != plain["curate"]
    own = "curate.mix.sources.python-docs.weight=0.5"
    assert found("", own)["curate"] == half["curate"]
    assert found(", weight: 3", own)["curate"] == half["curate"]
