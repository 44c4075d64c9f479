"""Which stages a recipe means, in order, and what each reads from which."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cluster.artifact import Identity
from cluster.config import StrictModel
from cluster.errors import UserError
from cluster.stage import Stage, identify
from evals.config import BENCHMARK_TEXT_STAGE, BenchmarkTextConfig
from evals.config import STAGE as EVALS
from pipelines.align.config import align_stage, nothing_to_learn_from
from pipelines.corpus.config import STAGE as CORPUS
from pipelines.curate.config import STAGE as CURATE
from pipelines.curate.config import CurateConfig
from pipelines.finetune.config import DocsPairs, stage_of
from pipelines.models.existing import STAGE as BASE
from pipelines.models.existing import ExistingModelConfig
from pipelines.pretrain import STAGE as PRETRAIN
from pipelines.recipe import Recipe
from pipelines.tokens.config import TOKENIZER_STAGE, TOKENS_STAGE

SERVING = "serving"
MODEL_SECTIONS = ("pretrain", "finetune", "align")
FINETUNED_BASE, ALIGNED_BASE = "finetune-base", "align-base"
"""Nodes that take a model from elsewhere to be changed; served and evaluated as what it was before."""

MODELS = {name: name for name in MODEL_SECTIONS} | {FINETUNED_BASE: "finetune", ALIGNED_BASE: "align"}
"""What ``@name`` may mean -> the section that makes it."""
SECTIONS = ("corpus", "curate", "tokenizer", "tokens", "pretrain", "finetune", "align", "evals", SERVING)


@dataclass(frozen=True)
class Node:
    """One stage of one recipe.

    Attributes:
        name: the artifact's name: the section's, or the section's and the model's (``evals-pretrain``).
        section: the recipe section.
        inputs: role -> the name of the node that makes it.
    """

    name: str
    section: str
    stage: Stage
    config: StrictModel
    inputs: Mapping[str, str]


def build_graph(recipe: Recipe) -> list[Node]:
    """The recipe's artifact stages in the order they run (serving, which makes no artifact, is not among them)."""
    wanted = _wanted(recipe)
    nodes = [
        Node("corpus", "corpus", CORPUS, recipe.corpus, {}),
        *_curation(recipe),
        Node("tokenizer", "tokenizer", TOKENIZER_STAGE, recipe.tokenizer, {"corpus": "curate"}),
        Node("tokens", "tokens", TOKENS_STAGE, recipe.tokens, {"corpus": "curate", "tokenizer": "tokenizer"}),
        Node("pretrain", "pretrain", PRETRAIN, recipe.pretrain, {"tokens": "tokens", "tokenizer": "tokenizer"}),
        *_finetuning(recipe),
        *_alignment(recipe),
    ]
    names = {node.name for node in nodes if node.section in wanted}
    for name in MODELS:
        if name == "align" and not recipe.align.makes_writer:
            continue
        if name in ("finetune", FINETUNED_BASE) and recipe.finetune.task != "generation":
            continue
        if name in names and "evals" in wanted:
            inputs = {"model": name}
            if "curate" in wanted:
                inputs["corpus"] = "curate"
            if name == "finetune" and not recipe.finetune.makes_model:
                inputs["base"] = base_of(recipe)
            nodes.append(Node(f"evals-{name}", "evals", EVALS, recipe.evals, inputs))
    return [node for node in nodes if node.section in wanted]


def aligned(recipe: Recipe) -> str:
    """The node that makes what is aligned."""
    if recipe.align.model is not None:
        return ALIGNED_BASE
    return "finetune" if "finetune" in recipe.written else "pretrain"


def _alignment(recipe: Recipe) -> list[Node]:
    """Alignment, before it the model from elsewhere that it starts from.

    Raises:
        UserError: the recipe does not say what it learns from.
    """
    config, base = recipe.align, aligned(recipe)
    if "align" in recipe.written and config.data is None:
        raise nothing_to_learn_from()
    nodes = [Node("align", "align", align_stage(config), config, {"model": base})]
    if config.model is not None:
        nodes.insert(0, Node(base, "align", BASE, ExistingModelConfig(source=config.model, where="align.model"), {}))
    return nodes


def base_of(recipe: Recipe) -> str:
    """The node that makes what is fine-tuned."""
    return "pretrain" if recipe.finetune.model is None else FINETUNED_BASE


def _finetuning(recipe: Recipe) -> list[Node]:
    """Fine-tuning, before it the model from elsewhere that it starts from."""
    config, base = recipe.finetune, base_of(recipe)
    inputs = {"model": base}
    if isinstance(config.data, DocsPairs):
        inputs["corpus"] = "curate"
    nodes = [Node("finetune", "finetune", stage_of(config), config, inputs)]
    if config.model is not None:
        taken = ExistingModelConfig(source=config.model, causal=config.task == "generation")
        nodes.insert(0, Node(base, "finetune", BASE, taken, {}))
    return nodes


def _curation(recipe: Recipe) -> list[Node]:
    """Curation, and where it decontaminates the text of the questions that ``evals`` asks, which it then reads.

    Raises:
        UserError: it is to decontaminate, and the recipe does not say against what.
    """
    curate = Node("curate", "curate", CURATE, _weighted(recipe), {"corpus": "corpus"})
    if recipe.curate.decontaminate is None or "curate" not in _wanted(recipe):
        return [curate]
    if "evals" not in recipe.written:
        raise UserError(
            "there are no questions to look for: the recipe has no evals section",
            where="curate.decontaminate",
            next_step="write evals with its suites and benchmarks, or leave curate.decontaminate out",
        )
    text = Node("benchmark-text", "curate", BENCHMARK_TEXT_STAGE, BenchmarkTextConfig.of(recipe.evals), {})
    return [text, replace(curate, inputs={**curate.inputs, "benchmarks": text.name})]


def _weighted(recipe: Recipe) -> CurateConfig:
    """Curation's section with the weights of the corpus's sources, where it does not weigh them itself."""
    weighed = [source.weight for source in recipe.corpus.sources]
    if all(weight is None for weight in weighed):
        return recipe.curate
    from pipelines.corpus.sources import source_names

    mix = recipe.curate.mix
    chosen = dict(mix.sources)
    for name, weight in zip(source_names(recipe.corpus), weighed, strict=True):
        own = mix.of(name)
        if weight is not None and own.weight is None:
            chosen[name] = own.model_copy(update={"weight": weight})
    return recipe.curate.model_copy(update={"mix": mix.model_copy(update={"sources": chosen})})


def _wanted(recipe: Recipe) -> set[str]:
    """The sections written, and whatever those read from."""
    own_base = recipe.finetune.model is None
    needs = {
        "curate": ["corpus"],
        "tokenizer": ["curate"],
        "tokens": ["tokenizer"],
        "pretrain": ["tokens"],
        "finetune": [
            *(["pretrain"] if own_base else []),
            *(["curate"] if isinstance(recipe.finetune.data, DocsPairs) else []),
        ],
        "align": [] if recipe.align.model is not None else [aligned(recipe)],
        "evals": [_evaluated(recipe)],
        SERVING: [_section_of(variant.model, recipe) for variant in recipe.serving.variants],
    }
    wanted: set[str] = set()
    pending = [section for section in SECTIONS if section in recipe.written]
    while pending:
        section = pending.pop()
        if section and section not in wanted:
            wanted.add(section)
            pending.extend(needs.get(section, ()))
    return wanted


def _evaluated(recipe: Recipe) -> str:
    """The section whose model evaluation needs: the first that the recipe does not take from elsewhere."""
    if "finetune" in recipe.written:
        return "pretrain" if recipe.finetune.model is None else "finetune"
    return "align" if "align" in recipe.written and recipe.align.model is not None else "pretrain"


def serves(recipe: Recipe) -> bool:
    """Whether the recipe asks for serving."""
    return SERVING in recipe.written


def _section_of(reference: str, recipe: Recipe) -> str:
    """The section that an ``@name`` reference means; empty for a path or an artifact id.

    Raises:
        UserError: no stage of that name makes a model.
    """
    if not reference.startswith("@"):
        return ""
    elsewhere = {FINETUNED_BASE: recipe.finetune.model, ALIGNED_BASE: recipe.align.model}
    names = [name for name in MODELS if elsewhere.get(name, name) is not None]
    name = reference[1:]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise UserError(
            f"{reference} names no stage that makes a model" + (f"; did you mean @{near[0]}?" if near else ""),
            where="serving.variants",
            next_step=f"use one of {', '.join('@' + each for each in names)}, a folder or an artifact id",
        )
    return MODELS[name]


def identities(nodes: list[Node]) -> dict[str, Identity]:
    """Node name -> the identity of what it makes. Fingerprints come from identities alone, so nothing has to run."""
    found: dict[str, Identity] = {}
    for node in nodes:
        parents = {role: found[name].fingerprint for role, name in node.inputs.items()}
        found[node.name] = identify(node.stage, node.config, parents, node.name)
    return found


def select(nodes: list[Node], until: str | None, only: str | None) -> tuple[list[Node], bool]:
    """The nodes to run and whether serving comes after them.

    Args:
        until: the last section to run.
        only: the one section to run; its inputs must be published.

    Raises:
        UserError: the recipe has no such section.
    """
    chosen = until or only
    if chosen is None:
        return nodes, True
    present = [*dict.fromkeys(node.section for node in nodes), SERVING]
    if chosen not in present:
        near = difflib.get_close_matches(chosen, present, n=1)
        raise UserError(
            f"no stage {chosen!r} in this recipe" + (f"; did you mean {near[0]}?" if near else ""),
            where="--until" if until else "--only",
            next_step=f"stages of this recipe: {', '.join(present)}",
        )
    if only:
        return [node for node in nodes if node.section == only], only == SERVING
    last = present.index(chosen)
    return [node for node in nodes if present.index(node.section) <= last], chosen == SERVING


def asked_for(
    recipe: Recipe, nodes: list[Node], until: str | None, only: str | None, force: Iterable[str]
) -> tuple[list[Node], bool]:
    """The nodes to run and whether the recipe is served after them; see :func:`select`.

    Args:
        force: sections or nodes that are to be made anew.

    Raises:
        UserError: there is no such stage, or nothing to do.
    """
    known = {node.name for node in nodes} | {node.section for node in nodes}
    unknown = sorted(set(force) - known)
    if unknown:
        raise UserError(
            f"no stage {unknown[0]!r} in this recipe",
            where="--force",
            next_step=f"stages of this recipe: {', '.join(sorted(known))}",
        )
    chosen, with_serving = select(nodes, until, only)
    will_serve = with_serving and serves(recipe)
    if not chosen and not will_serve:
        raise UserError(
            "it names nothing to make", where=f"recipe {recipe.name}", next_step="write a section, such as `corpus:`"
        )
    return chosen, will_serve
