"""A model behind a vLLM engine: the same questions and answers as :class:`evals.scorer.Scorer`, on vLLM's kernels.

One engine request answers a group: its inputs are the prompt, and of the one token that is generated only the
log-probabilities of the groups' last tokens are wanted. So a group whose continuations have one token each (MMLU) asks
for nothing of its prompt, and vLLM computes the part that it shares with the prompt before (the worked examples) once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.store import Store
from cluster.torch_store import listen_where_told
from evals.answers import AnswerBook
from evals.offline import ENVIRONMENT as OFFLINE
from evals.scorer import Answer, Group, Prompt, count_tokens, load_model
from evals.sources import Source
from evals.tokenizer import load_tokenizer

KV_CACHE_BYTES = 64 << 20
"""On CPU; on a GPU vLLM takes what is free."""

ENGINE_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine ends with the actor
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the model's context: a token that is never read back
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_HOST_IP": "127.0.0.1",  # its one process meets nobody
}


class VllmScorer:
    """The actor; see the module's text."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def load(self) -> None:
        """Start the engine.

        Raises:
            UserError: vLLM does not run this model.
        """
        os.environ.update({**ENGINE_ENVIRONMENT, **OFFLINE})
        import torch
        from lm_eval.models.utils import resolve_max_length
        from transformers import AutoConfig
        from vllm import LLM

        listen_where_told()
        base, adapter = self._source.folders()
        self._tokenizer = load_tokenizer(base)
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        self._context = resolve_max_length(config, self._tokenizer)
        on_cpu = not torch.cuda.is_available()
        options: dict[str, Any] = {"kv_cache_memory_bytes": KV_CACHE_BYTES, "dtype": "float32"} if on_cpu else {}
        merged = _merge(base, adapter) if adapter else None
        try:
            self._engine = LLM(
                model=str(merged or base),
                tokenizer=str(base),
                max_model_len=self._context + 1,
                enforce_eager=on_cpu,
                enable_prefix_caching=True,
                disable_log_stats=True,
                max_logprobs=-1,
                **options,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"vLLM does not run this model: {str(error).strip().splitlines()[0]}",
                where=str(adapter or base),
                next_step="evaluate it with evals.backend: transformers",
            ) from error
        finally:
            if merged is not None:
                shutil.rmtree(merged)  # the engine has read it

    def answer(self, method: str, batches: list[Any], keys: list[str], book: AnswerBook | None) -> list[Any]:
        """As :meth:`evals.scorer.Scorer.answer`; the engine gets the whole chunk at once and batches it itself."""
        flat = [each for batch in batches for each in batch]
        try:
            answered = iter(getattr(self, f"_{method}")(flat))
        except ValueError as error:
            raise UserError(
                f"vLLM refuses a request: {str(error).strip().splitlines()[0]}",
                where="evals.backend: vllm",
                next_step="evaluate it with evals.backend: transformers",
            ) from error
        answers = [[next(answered) for _ in batch] for batch in batches]
        if book is not None:
            book.keep(dict(zip(keys, answers, strict=True)))
        return answers

    def count_tokens(self, store: Store, key: str, row_groups: list[int]) -> dict[int, int]:
        """See :func:`evals.scorer.count_tokens`."""
        return count_tokens(self._tokenizer, store, key, row_groups)

    def _score(self, groups: list[Group]) -> list[list[Answer]]:
        from vllm import SamplingParams, TokensPrompt

        prompts, settings = [], []
        for group in groups:
            last = sorted({tokens[-1] for tokens in group.continuations})
            whole = max(map(len, group.continuations)) > 1
            prompts.append(TokensPrompt(prompt_token_ids=group.inputs))
            settings.append(
                SamplingParams(
                    temperature=0.0,
                    max_tokens=1,
                    logprobs=len(last),
                    logprob_token_ids=last,
                    prompt_logprobs=1 if whole else None,
                    detokenize=False,
                    ignore_eos=True,
                )
            )
        outputs = self._engine.generate(prompts, settings, use_tqdm=False)
        return [_answers(group, output) for group, output in zip(groups, outputs, strict=True)]

    def _generate(self, prompts: list[Prompt]) -> list[str]:
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
        from vllm import SamplingParams, TokensPrompt

        eos = self._tokenizer.decode(self._tokenizer.eos_token_id, skip_special_tokens=False)
        asked, settings, stops = [], [], []
        for prompt in prompts:
            wanted = normalize_gen_kwargs(dict(prompt.settings), 256)
            stops.append(handle_stop_sequences(wanted.pop("until", None), eos=eos))
            longest = self._context - wanted["max_gen_toks"]
            tokens = self._tokenizer.encode(prompt.context, verbose=False)[-longest:]
            asked.append(TokensPrompt(prompt_token_ids=tokens))
            temperature = float(wanted.get("temperature") or 0.0) if wanted.get("do_sample") else 0.0
            settings.append(SamplingParams(temperature=temperature, max_tokens=wanted["max_gen_toks"], stop=stops[-1]))
        outputs = self._engine.generate(asked, settings, use_tqdm=False)
        return [
            # Decoded here, as transformers does it: vLLM leaves out a letter that the last token only begins.
            postprocess_generated_text(
                generation=self._tokenizer.decode(output.outputs[0].token_ids, skip_special_tokens=True),
                stop=stop,
                think_end_token=None,
            )
            for output, stop in zip(outputs, stops, strict=True)
        ]


def _answers(group: Group, output: Any) -> list[Answer]:
    generated = output.outputs[0]
    last = {token: entry.logprob for token, entry in generated.logprobs[0].items()}
    likeliest = generated.token_ids[0]
    answers: list[Answer] = []
    for tokens in group.continuations:
        total, greedy = last[tokens[-1]], tokens[-1] == likeliest
        start = len(group.inputs) - len(tokens) + 1
        for place, token in enumerate(tokens[:-1], start):
            entry = output.prompt_logprobs[place][token]
            total += entry.logprob
            greedy = greedy and entry.rank == 1
        answers.append((float(total), bool(greedy)))
    return answers


def _merge(base: Path, adapter: Path) -> Path:
    """The full model with the adapter's change added to its weights, in a new folder."""
    merged = load_model(base, adapter)
    if not hasattr(merged, "merge_and_unload"):
        raise UserError(
            "this kind of adapter cannot be added to the weights",
            where=str(adapter),
            next_step="evaluate it with evals.backend: transformers",
        )
    folder = Path(tempfile.mkdtemp(prefix="raymill-merged-"))
    merged.merge_and_unload().save_pretrained(folder)
    for file in base.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder
