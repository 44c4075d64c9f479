"""The program of an engine beside a training worker: vLLM, given new weights and then asked, until its worker is gone.

A process of its own: vLLM sets threads, process groups and environment for the whole of its process, which are
training's elsewhere. Started as ``python -m pipelines.align.engine_process FILENO`` by :mod:`pipelines.align.engine`.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from typing import Any

from cluster.torch_store import listen_where_told
from pipelines.align.engine_messages import Ask, Done, Refused, Start, Weights, Written

CHECKED = "Value error, "


class VllmEngine:
    """vLLM with weights that are given to it; until then they are nobody's."""

    def __init__(self, start: Start) -> None:
        from vllm import LLM

        listen_where_told()
        self._engine = LLM(
            model=start.folder,
            skip_tokenizer_init=True,
            load_format="dummy",  # what is never given would show in every answer
            generation_config="vllm",  # the model's own could bring a top_p
            logprobs_mode="processed_logprobs",  # at the temperature
            distributed_executor_backend="uni",
            disable_log_stats=True,
            **start.options,
        )
        self._version = 0

    def take(self, weights: Weights) -> Done:
        """Put new weights in place of the old ones, and forget what was computed with those."""
        from safetensors.torch import load_file

        stored = load_file(weights.path)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(stored.items())})
        self._engine.apply_model(_pack_output_again)
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept keys and values of the old weights")
        self._version = weights.version
        return Done(self._version)

    def answer(self, ask: Ask) -> Written:
        """Answer all prompts."""
        from vllm import SamplingParams, TokensPrompt

        settings = [
            SamplingParams(
                temperature=ask.temperature,
                seed=seed,
                max_tokens=ask.tokens,
                stop_token_ids=ask.stops,
                ignore_eos=True,  # the stops are all that ends an answer
                logprobs=0,  # of the drawn token
                detokenize=False,
            )
            for seed in ask.seeds
        ]
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in ask.prompts]
        outputs = [each.outputs[0] for each in self._engine.generate(prompts, settings, use_tqdm=False)]
        answers = [list(each.token_ids) for each in outputs]
        logprobs = [
            [place[token].logprob for token, place in zip(answer, each.logprobs, strict=True)]
            for answer, each in zip(answers, outputs, strict=True)
        ]
        return Written(answers, logprobs, self._version)


def _pack_output_again(model: Any) -> None:
    """On a CPU vLLM multiplies by a packed copy, which its reload leaves as it was where in- and output are tied."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


def _reason(error: Exception) -> str:
    """In a line; pydantic, which checks vLLM's settings, says it in an indented one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    checked = (line.strip().removeprefix(CHECKED) for line in lines if line.strip().startswith(CHECKED))
    return next(checked, lines[0]).partition(" [type=")[0]


def serve(connection: Connection, make: Any) -> None:
    """Do what the worker says until it is gone; ``make`` turns the first message into an engine."""
    try:
        start = connection.recv()
        try:
            engine = make(start)
        except (ValueError, RuntimeError, NotImplementedError, ImportError, OSError, AssertionError) as error:
            connection.send(Refused(_reason(error)))
            return
        connection.send(Done())
        while True:
            said = connection.recv()
            connection.send(engine.take(said) if isinstance(said, Weights) else engine.answer(said))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), VllmEngine)
