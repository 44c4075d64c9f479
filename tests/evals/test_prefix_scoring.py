"""A prefix computed once and the rests after it answer as whole sequences do, or the model is refused."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.progress import Progress, Tracker
from cluster.store import open_store
from evals import prefixes
from evals.answers import AnswerBook
from evals.harness import ClusterLM, TokenRequest
from evals.pool import ScorerPool
from evals.prefix_scoring import why_not_shared
from evals.scorer import Group, Scorer, SharedBatch
from evals.sources import FolderSource

from .conftest import write_adapter

NEAR = 1e-4
VOCABULARY = 250


def write_gpt2(folder: Path, tokenizer: Path) -> Path:
    """A random GPT-2: learned positions, no grouped heads."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    sizes = {"n_embd": 48, "n_layer": 3, "n_head": 3, "n_positions": 256, "initializer_range": 0.2}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY + 50, bos_token_id=0, eos_token_id=1, **sizes)).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "gpt2", "lora"])
def scorer(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp(request.param)
    source = {
        "llama": lambda: FolderSource(tiny_model),
        "gpt2": lambda: FolderSource(write_gpt2(folder, tiny_model)),
        "lora": lambda: FolderSource(tiny_model, write_adapter(folder, tiny_model)),
    }[request.param]()
    scorer = Scorer(source)
    scorer.load()
    return scorer


def oracle(model: Any, group: Group) -> list[tuple[float, bool]]:
    """A whole sequence alone, in double precision, every position's logits."""
    with torch.inference_mode():
        logits = torch.log_softmax(model(torch.tensor([group.inputs])).logits[0].double(), dim=-1)
    found = []
    for tokens in group.continuations:
        rows = logits[len(group.inputs) - len(tokens) :]
        found.append(
            (
                sum(float(row[token]) for row, token in zip(rows, tokens, strict=True)),
                all(int(row.argmax()) == token for row, token in zip(rows, tokens, strict=True)),
            )
        )
    return found


def assert_near(answers: list[list[Any]], expected: list[list[Any]]) -> None:
    for own, other in zip(answers, expected, strict=True):
        assert [greedy for _, greedy in own] == [greedy for _, greedy in other]
        assert [value for value, _ in own] == pytest.approx([value for value, _ in other], abs=NEAR)


def made(chance: random.Random, prefix: list[int], rest: int, longest: int) -> Group:
    """A sequence after a prefix: so many more inputs, and continuations at its end."""
    inputs = [*prefix, *(chance.randrange(2, VOCABULARY) for _ in range(rest))]
    longest = min(longest, rest)
    tails = [[*inputs[len(inputs) - length + 1 :], chance.randrange(2, VOCABULARY)] for length in (longest, longest, 1)]
    return Group(inputs, tails)


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("prefix", [1, 2, 63, 64, 65, 200, 248])
def test_answers_are_those_of_whole_sequences(scorer: Scorer, prefix: int, size: int) -> None:
    """Rests of 1, which is all that a prefix as long as the prompt leaves, to 7 tokens, padded to the longest."""
    chance = random.Random(prefix * 10 + size)
    head = [chance.randrange(2, VOCABULARY) for _ in range(prefix)]
    groups = [made(chance, head, 1 + number % 7, 1 + number % 3) for number in range(size)]
    answers = scorer.score_shared([SharedBatch(prefix, groups)])[0]
    assert_near(answers, [oracle(scorer._model, group) for group in groups])
    assert_near(answers, scorer.score([groups])[0])


def test_a_sequence_that_begins_another_is_answered_by_its_row(scorer: Scorer) -> None:
    chance = random.Random(9)
    head = [chance.randrange(2, VOCABULARY) for _ in range(100)]
    long, other = made(chance, head, 9, 2), made(chance, head, 5, 1)
    groups = [Group(long.inputs[:-1], [[3], [4]]), other, long, Group(long.inputs[:-4], [[*long.inputs[-6:-4], 9]])]
    seen: list[int] = []
    hook = scorer._model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    answers = scorer.score_shared([SharedBatch(100, groups)])[0]
    hook.remove()
    assert seen == [1, 2]
    assert_near(answers, [oracle(scorer._model, group) for group in groups])


def test_answers_do_not_depend_on_what_was_asked_before(scorer: Scorer) -> None:
    """So neither on how batches are dealt to workers: equal to the bit."""
    chance = random.Random(1)
    heads = [[chance.randrange(2, VOCABULARY) for _ in range(70)] for _ in range(2)]
    batches = [
        SharedBatch(70, [made(chance, head, 3 + step, 2) for step in range(4)]) for head in heads for _ in range(2)
    ]
    forward = scorer.score_shared(batches)
    for order in ((3, 2, 1, 0), (0, 2, 1, 3)):
        answers = scorer.score_shared([batches[place] for place in order])
        assert answers == [forward[place] for place in order]


class Actor:
    """A scorer as Ray would hold it, in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.load = SimpleNamespace(remote=lambda: None)
        self.why_not_shared = SimpleNamespace(remote=scorer.why_not_shared)
        self.takes_rows = SimpleNamespace(remote=scorer.takes_rows)
        self.answer = SimpleNamespace(remote=scorer.answer)


class Pool(ScorerPool):
    """A :class:`ScorerPool` without Ray: calls are answered at once."""

    def _tell(self, method: str) -> Any:
        return getattr(self._actors[0], method).remote()

    def _stream(self, work: list[Callable[[Any], Any]], on_done: Callable[[int], None]) -> list[Any]:
        results = []
        for number, each in enumerate(work):
            results.append(each(self._actors[number % len(self._actors)]))
            on_done(number)
        return results


def asked(
    scorer: Scorer, model: Path, requests: list[TokenRequest], batch_size: int, share: bool, book: Any = None
) -> tuple[list[Any], ClusterLM, str, Pool]:
    said = io.StringIO()
    pool = Pool([Actor(scorer)], book)
    lm = ClusterLM(model, pool, batch_size, Tracker(Progress(said), "test"), max_length=256, share_prefixes=share)
    return list(lm._loglikelihood_tokens(requests)), lm, said.getvalue(), pool


TOKENS = st.integers(2, VOCABULARY - 1)
QUESTIONS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which worked examples
        st.lists(TOKENS, min_size=1, max_size=12),
        st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.lists(TOKENS, max_size=200), min_size=3, max_size=3),
    QUESTIONS,
    st.sampled_from([1, 3, 8]),
    st.sampled_from([0, 100, 512]),
)
def test_any_requests_are_answered_as_without_sharing(
    scorer: Scorer, tiny_model: Path, heads: list[list[int]], questions: list[Any], batch_size: int, row_tokens: int
) -> None:
    requests: list[TokenRequest] = [
        (None, [*heads[which], *question], answer) for which, question, answers in questions for answer in answers
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "LEAST_SAVED", 0)
        patch.setattr(prefixes, "LEAST_IN_ROW", 0)
        patch.setattr(prefixes, "ROW_TOKENS", row_tokens)
        shared, lm, _, _ = asked(scorer, tiny_model, requests, batch_size, True)
    plain, *_ = asked(scorer, tiny_model, requests, batch_size, False)
    assert lm.sharing is not None and lm.sharing.reason == ""
    for (value, greedy), (other, other_greedy) in zip(shared, plain, strict=True):
        assert value == pytest.approx(other, abs=NEAR)
        assert greedy == other_greedy


def questions_after(head: int, count: int) -> list[TokenRequest]:
    chance = random.Random(head)
    before = [chance.randrange(2, VOCABULARY) for _ in range(head)]
    questions = [[chance.randrange(2, VOCABULARY) for _ in range(6)] for _ in range(count)]
    return [("mmlu@1", [*before, *question], [letter]) for question in questions for letter in (5, 6, 7, 8)]


@pytest.mark.parametrize(("row_tokens", "batches"), [(200, 2), (210, 1)])
def test_a_question_s_choices_share_their_last_position_and_questions_their_examples(
    scorer: Scorer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, row_tokens: int, batches: int
) -> None:
    """After their examples, three and two at a time, or all in one row where that is not too long."""
    monkeypatch.setattr(prefixes, "ROW_TOKENS", row_tokens)
    _, lm, said, pool = asked(scorer, tiny_model, questions_after(180, 5), 3, True)
    assert lm.sharing is not None
    assert lm.sharing.record() == {"sequences": 5, "saved_tokens": 4 * 180, "not_possible": ""}
    assert "share_prefixes" not in said
    assert pool.asked == batches


def test_prompts_that_lost_their_beginning_are_computed_whole_to_the_bit_and_it_is_said_once(
    scorer: Scorer, tiny_model: Path
) -> None:
    cut, whole = questions_after(260, 4), questions_after(150, 4)
    shared, lm, said, _ = asked(scorer, tiny_model, [*cut, *whole], 4, True)
    lm._loglikelihood_tokens(cut)
    assert said.count("lost their beginning") == 1
    assert lm.sharing is not None and lm.sharing.sequences == 4
    plain, *_ = asked(scorer, tiny_model, cut, 4, False)
    assert shared[: len(cut)] == plain


def test_kept_answers_of_the_two_ways_are_never_mixed(scorer: Scorer, tiny_model: Path, tmp_path: Path) -> None:
    book = AnswerBook.of(open_store(tmp_path), "0" * 64, {})
    requests = questions_after(150, 6)
    exact, _, _, first = asked(scorer, tiny_model, requests, 6, False, book)
    shared, _, _, second = asked(scorer, tiny_model, requests, 6, True, book)
    again, _, _, third = asked(scorer, tiny_model, requests, 6, True, book)
    exactly_again, _, _, fourth = asked(scorer, tiny_model, requests, 6, False, book)
    assert (first.asked, second.asked, third.asked, fourth.asked) == (1, 1, 0, 0)
    assert again == shared and exactly_again == exact


def refused(model: Any) -> str:
    torch.manual_seed(2)
    return why_not_shared(model.eval(), "cpu")


def test_models_whose_prefixes_cannot_be_kept_are_refused_with_a_reason(tiny_model: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        BertConfig,
        BertLMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
    )

    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    assert "not every layer" in refused(MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=64)))
    assert refused(MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=None))) == ""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert "rotary" in refused(LlamaForCausalLM(LlamaConfig(**sizes, **heads, rope_parameters=rope)))
    bert = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=2, is_decoder=False))
    assert "logits_to_keep" in refused(bert) or "not every layer" in refused(bert)
    prompted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    )
    assert "adds to the prompt" in refused(prompted)
    assert refused(torch.nn.Linear(2, 2)) == "its class takes no logits_to_keep, past_key_values, use_cache"


def test_a_model_that_answers_otherwise_from_its_cache_is_refused_and_scored_whole(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals import prefix_scoring

    scorer = Scorer(FolderSource(tiny_model))
    scorer.load()
    kept = prefix_scoring.compute_prefix

    def forgetful(model: Any, tokens: list[int], device: str) -> Any:
        return kept(model, tokens[::-1], device)

    monkeypatch.setattr(prefix_scoring, "compute_prefix", forgetful)
    requests = questions_after(150, 4)
    answers, lm, said, _ = asked(scorer, tiny_model, requests, 4, True)
    assert said.count("when a prompt is computed in two parts; every prompt is computed whole") == 1
    assert answers == asked(scorer, tiny_model, requests, 4, False)[0]
    assert lm.sharing is not None and lm.sharing.record()["sequences"] == 0


def test_no_two_prefixes_are_held_at_a_time(scorer: Scorer) -> None:
    chance = random.Random(3)
    for number in range(3):
        head = [number + 2] * 40
        scorer.score_shared([SharedBatch(40, [made(chance, head, 4, 1) for _ in range(8)])])
        assert scorer._sharing._prefix == head  # and nothing of the batch stays
        assert {tuple(layer.keys.shape[::2]) for layer in scorer._sharing._cache.layers} == {(1, 40)}
