"""Learning from answers that an engine writes: on the policy's weights, weighed, refused where they are another's.

The engine here is a copy of the model in this process that is given weights and asked as vLLM is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import InfraError, UserError
from pipelines.align import answer_writers
from pipelines.align.actor import Actor
from pipelines.align.answer_writers import AnswerWriter, EngineWriter
from pipelines.align.engine_messages import Written
from pipelines.align.importance import MOST_WEIGHT, importance, require_near
from pipelines.align.rollouts import Rollout
from pipelines.align.sampling import sample_answers, seed_of
from pipelines.train.group import Group

from .toy import Toy, bandit, config

BRIEF = {"reward": "pipelines.align.simple_rewards:brief", "answer_tokens": 6}


class CopyEngine:
    """Draws by seeds of its own; ``warmth`` multiplies the temperature, as rounding would change a distribution."""

    def __init__(self, model: Any, warmth: float = 1.0, asks: int | None = None) -> None:
        settings = model.get_base_model().config if hasattr(model, "get_base_model") else model.config
        with torch.random.fork_rng():
            self._model = type(model.get_base_model() if hasattr(model, "get_base_model") else model)(settings).eval()
        self._warmth, self._left, self.version = warmth, asks, 0
        self.closed = False

    def push(self, weights: dict[str, torch.Tensor]) -> int:
        found = self._model.load_state_dict(weights, strict=False)
        assert not found.unexpected_keys
        assert set(found.missing_keys) <= {"lm_head.weight"}  # tied
        self.version += 1
        return self.version

    def answer(self, prompts: Any, seeds: Any, stops: Any, tokens: int, temperature: float) -> Written:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise InfraError("the vLLM engine beside a training worker ended", where="align")
        warm = temperature * self._warmth
        draws = np.stack([np.random.default_rng(seed).random(tokens) for seed in seeds])
        settings = {"stops": stops, "pad_id": 0, "temperature": warm, "device": torch.device("cpu")}
        answers = sample_answers(self._model, prompts, draws, **settings)
        logprobs = []
        for prompt, answer in zip(prompts, answers, strict=True):
            with torch.no_grad():
                logits = self._model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            logs = torch.log_softmax(logits.double() / warm, -1)
            logprobs.append(logs[range(len(answer)), answer].tolist())
        return Written(answers, logprobs, self.version)

    def close(self) -> None:
        self.closed = True


def writer(settings: Any, **more: Any) -> Callable[[Actor], AnswerWriter]:
    return lambda actor: EngineWriter(actor, settings, CopyEngine(actor.policy, **more), torch.float32)  # type: ignore[arg-type]


def test_each_drawing_has_the_weights_of_its_step() -> None:
    toy = bandit("ppo", updates_per_rollout=2)
    toy.writer = writer(toy.config)
    before = toy.policy()
    around = toy.train(6)
    assert np.abs(toy.policy() - before).max() > 0.02
    assert max(around.curve("engine_gap") + around.curve("engine_gap", "validation")) < 1e-5


def test_a_drawing_from_a_little_elsewhere_is_weighed() -> None:
    """The mean advantage under the policy, of what another distribution drew: by importance it comes out right."""
    toy = Toy(config("grpo", answer_tokens=1), lambda context, answer: float(answer[0] == 4))
    toy.writer = writer(toy.config, warmth=1.2)
    toy.objective(toy.model, Group())
    toy.training.gather(np.arange(1), _runner(toy))
    (held,) = toy.training._held.values()
    rewards = np.asarray([each.reward for each in held])
    plain = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    for rollout, advantage in zip(held, plain, strict=True):
        assert rollout.drawn is not None
        weight = np.exp(rollout.old - rollout.drawn)
        assert weight != pytest.approx(1.0, abs=1e-4)
        assert rollout.advantages == pytest.approx(advantage * weight)


def _runner(toy: Toy) -> Any:
    from pipelines.train.parallel import arrange

    return arrange(toy.model, toy.config, Group(), toy)


def test_a_weight_has_a_limit() -> None:
    found = importance(np.asarray([-1.0, -2.0, -1.0]), np.asarray([-1.0, -1.0, -9.0]))
    assert found == pytest.approx([1.0, np.exp(-1), MOST_WEIGHT])


def test_an_engine_with_another_model_is_refused() -> None:
    require_near(0.05, "align")
    with pytest.raises(UserError, match=r"its log-probabilities are 0\.7 nats a token away"):
        require_near(0.7, "align")
    toy = Toy(config("grpo", answer_tokens=1, temperature=0.2), lambda context, answer: 0.0)
    toy.writer = writer(toy.config, warmth=40.0)
    with pytest.raises(UserError, match="vLLM computes this model otherwise than training does"):
        toy.train(2)


def test_seeds_differ_by_seed_visit_and_answer() -> None:
    found = [seed_of(1, 2, 3), seed_of(2, 2, 3), seed_of(1, 3, 3), seed_of(1, 2, 4)]
    assert len(set(found)) == 4
    assert found[0] == seed_of(1, 2, 3)
    assert all(0 <= each < 1 << 63 for each in found)


@pytest.mark.parametrize("method", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_a_run_whose_engine_ends_goes_on_with_another_to_the_same_bytes(
    make_bench: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fields: dict[str, Any] = {"method": method, "steps": 6, "updates_per_rollout": 2, "checkpoint_every_steps": 2}
    fields |= BRIEF | ({"answers_per_prompt": 3, "batch_sequences": 4} if method == "grpo" else {})
    engines: list[CopyEngine] = []

    def run(bench: Any, asks: int | None = None) -> dict[str, Any]:
        def start(model: Any, *ignored: Any) -> Any:
            engines.append(CopyEngine(model, asks=asks))
            return engines[-1], torch.float32

        monkeypatch.setattr(answer_writers, "start_engine", start)
        task = bench.task(**fields)
        task.writer = "vllm"
        found: dict[str, Any] = bench.run(task)
        return found

    whole, cut = make_bench("whole"), make_bench("cut")
    summary = run(whole)
    assert engines[-1].closed
    assert all("engine_gap" in each for each in summary["records"] if each["kind"] == "train")
    with pytest.raises(InfraError, match="engine beside a training worker ended"):
        run(cut, asks=6)  # three drawings and three validations before the third
    again = run(cut)
    assert again["resumed_at"] > 0
    assert cut.weights() == whole.weights()
    assert cut.weights() != whole.store.read(whole.model.key("model.safetensors"))


def test_rollouts_of_the_model_itself_are_not_weighed() -> None:
    toy = bandit("grpo")
    around = toy.train(1)
    assert "engine_gap" not in around.records[-1]
    held: list[list[Rollout]] = list(toy.training._held.values())
    assert all(each.drawn is None for group in held for each in group)


def test_examples_are_as_they_were_asked(tmp_path: Path) -> None:
    """Nothing of an engine stays in what is published: the report's answers come from the last validation."""
    toy = Toy(config("grpo", answer_tokens=3), lambda context, answer: float(answer[0]))
    toy.writer = writer(toy.config)
    toy.train(1)
    shown = toy.validation.texts(2)
    assert all(each["reward"] == float(each["answer"].split()[0]) for each in shown)
