"""Evaluating what users get: a model behind an OpenAI URL, which may be one variant of a deployment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from cluster.artifact import Artifact
from cluster.config import execution
from cluster.errors import InfraError, RaymillError, UserError
from cluster.stage import Outcome, Stage, StageContext
from cluster.store import Store
from evals.answers import AnswerBook
from evals.benchmarks import BenchmarkSet, open_benchmarks
from evals.config import STAGE, EvalsConfig
from evals.endpoint import Endpoint, EndpointPool
from evals.offline import offline
from evals.sources import MODEL_FILE
from evals.stage import Evaluation, score_tasks, write_results

IN_FLIGHT = 16
PROMPTS_A_REQUEST = 4
GUESSED_CONTEXT = 2048


class ServedConfig(EvalsConfig):
    """An evaluation's settings, and the endpoint. What is served can change any time, so when it was asked is part of
    the result's identity, and a finished result is never taken for a later one."""

    url: str = Field(description="the endpoint, up to and without /v1")
    model: str = Field(description="the model's name there")
    context_tokens: int = Field(ge=8, description="the longest prompt and answer that it takes, in tokens")
    asked: str = Field(description="when, in UTC")
    tokenizer: str = execution(description="the folder of the model's tokenizer")
    variant: str = Field("", description="behind Raymill's gateway, the variant that was asked")
    in_flight: int = execution(IN_FLIGHT, ge=1, description="requests at a time")

    @classmethod
    def of(
        cls,
        config: EvalsConfig,
        url: str,
        model: str | None = None,
        tokenizer: str | None = None,
        in_flight: int | None = None,
        variant: str | None = None,
        context_tokens: int | None = None,
    ) -> ServedConfig:
        """The settings with an endpoint, which is asked what it serves.

        Args:
            context_tokens: the longest prompt and answer; by default what it says, or else the model's configuration.

        Raises:
            UserError: it serves several models and none is named, or its tokenizer is nowhere to be found.
            InfraError: it does not answer.
        """
        address = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(address)
        if parts.username or parts.password or parts.query:
            raise UserError(
                "an address with a password or a query in it",
                where=f"{parts.scheme}://{parts.hostname}",
                next_step="put the key into OPENAI_API_KEY; it is then sent and never written down",
            )
        entry = _served(Endpoint(address, ""), model)
        # An endpoint is one thing to wait for and to pay for, whatever stands behind it.
        settings = config.model_dump(exclude={"preset"}) | {"heldout": False, "workers": 1}
        folder = _tokenizer(entry, tokenizer)
        own = {
            "url": address,
            "model": entry["id"],
            "context_tokens": context_tokens or int(entry.get("max_model_len") or _context(folder)),
            "asked": datetime.now(UTC).isoformat(timespec="microseconds"),
            "tokenizer": str(folder),
            "variant": variant or "",
            "in_flight": in_flight or IN_FLIGHT,
        }
        return cls(**settings, **own)


SERVED_STAGE = Stage(STAGE.name, STAGE.kind, STAGE.version, "evals.served:run", STAGE.resolve)


def _served(endpoint: Endpoint, model: str | None) -> dict[str, Any]:
    try:
        known = {str(entry["id"]): entry for entry in endpoint.get("/v1/models")["data"]}
    except (KeyError, TypeError):
        known = {}
    if model is None and len(known) == 1:
        return dict(next(iter(known.values())))
    if model not in known:
        raise UserError(
            f"serves no model {model!r}" if model else f"serves {len(known)} models",
            where=endpoint.url,
            next_step=f"name one with --model-name: {', '.join(sorted(known)) or 'it lists none'}",
        )
    return dict(known[model])


def _tokenizer(entry: Mapping[str, Any], given: str | None) -> Path:
    for place in (given, entry.get("root")):
        if place and Path(place).expanduser().is_dir():
            return Path(place).expanduser().resolve()
    raise UserError(
        "no such folder" if given else "its tokenizer is not known here",
        where=f"--tokenizer {given}" if given else str(entry["id"]),
        next_step="name the folder of the served model's tokenizer (or of the model) with --tokenizer",
    )


def _context(folder: Path) -> int:
    """The model's longest sequence as its configuration says, for servers that do not tell."""
    try:
        settings = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return GUESSED_CONTEXT
    return int(settings.get("max_position_embeddings") or GUESSED_CONTEXT)


def run(config: ServedConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Evaluate the model at ``config.url``; where it dies half-way, over what it answered, which the result says."""
    benchmarks = open_benchmarks(config)
    book = _book(context.store, config)
    endpoint = Endpoint(config.url, config.model, variant=config.variant)
    evaluation = _evaluate(config, endpoint, benchmarks, context, book)
    name = f"{config.model}:{config.variant}" if config.variant else config.model
    model: dict[str, Any] = {"id": name, "url": config.url, "asked": config.asked, "kind": "served"}
    model |= {"served_name": config.model, "tokenizer": config.tokenizer}
    if endpoint.answered_by:
        model["answered_by"] = dict(sorted(endpoint.answered_by.items()))
    if len(endpoint.answered_by) > 1:
        told = ", ".join(f"{variant} {count:,}" for variant, count in model["answered_by"].items())
        context.progress.note(
            f"several variants answered ({told} requests): the scores are those of the mixture that users without a"
            " name get; --variant asks one of them"
        )
    outcome = write_results(evaluation, model, benchmarks, config, context, f"Evaluation of {name}")
    if not evaluation.unanswered:
        book.forget()  # what is served may be another model tomorrow
    return outcome


def _book(store: Store, config: ServedConfig) -> AnswerBook:
    place = hashlib.sha256(f"{config.url}\0{config.model}\0{config.variant}".encode()).hexdigest()
    return AnswerBook.of(store, place, {"context_tokens": config.context_tokens})


def _evaluate(
    config: ServedConfig, endpoint: Endpoint, benchmarks: BenchmarkSet, context: StageContext, book: AnswerBook
) -> Evaluation:
    from evals.tokenizer import load_tokenizer

    folder = Path(config.tokenizer)
    tokenizer = load_tokenizer(folder)
    eos = (
        tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
        if tokenizer.eos_token_id is not None
        else ""
    )
    pool = EndpointPool(endpoint, config.in_flight, eos, book)
    with offline(benchmarks.root is not None):
        from evals.harness import ClusterLM

        # The prompt has a continuation's last token as well, and the server adds one of its own.
        longest = config.context_tokens - 2
        batch = min(config.batch_size, PROMPTS_A_REQUEST)
        lm = ClusterLM(folder, pool, batch, context.progress, max_length=longest)
        pool.encode, pool.longest = lm.tok_encode, longest
        return score_tasks(lm, benchmarks, config, context.progress, lambda: _reason(pool.failure))


def _reason(failure: RaymillError | None) -> str:
    """Why an endpoint was given up, in a line: what is wrong, and what the last try met."""
    first = str(failure).partition("\n")[0]
    tried = failure.attempts if isinstance(failure, InfraError) else ()
    return f"{first}; the last try: {tried[-1]}" if tried else first
