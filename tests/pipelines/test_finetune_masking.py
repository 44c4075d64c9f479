from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.errors import UserError
from pipelines.finetune.masking import EncodedPair, PairSamples, encode_pair
from pipelines.finetune.pairs import Pair
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe
from pipelines.train.task import IGNORED


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_folder(learn_bpe(["What does it do? Return the sum."] * 3, 320, 2), folder)
    return AutoTokenizer.from_pretrained(folder)


def test_the_answer_and_its_end_carry_loss_and_nothing_else_does(tokenizer: Any) -> None:
    pairs = [Pair("What?", "Return the sum."), Pair("What does it do? Tell me.", "It.")]
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    samples = PairSamples(encoded, tokenizer.pad_token_id)
    batch = samples.batch(np.array([0, 1]))
    assert batch.inputs.shape == batch.labels.shape
    for row, pair in enumerate(pairs):
        inputs, labels = batch.inputs[row].tolist(), batch.labels[row].tolist()
        learned = [label for label in labels if label != IGNORED]
        assert tokenizer.decode(learned) == pair.completion + "<|end|>"
        # Token by token: where there is a label, it is the token that follows in the conversation.
        whole = tokenizer(
            f"<|bos|><|user|>\n{pair.prompt}<|end|>\n<|assistant|>\n{pair.completion}<|end|>", add_special_tokens=False
        ).input_ids
        first = len(whole) - len(learned)
        for position, label in enumerate(labels):
            if first - 1 <= position < len(whole) - 1:
                assert label == whole[position + 1]
            else:
                assert label == IGNORED
        assert inputs[: len(whole) - 1] == whole[:-1]
        assert set(inputs[len(whole) - 1 :]) <= {tokenizer.pad_token_id}
    assert samples.targets(np.array([0, 1])) == int((batch.labels != IGNORED).sum())
    assert samples.targets(np.array([1])) == len(encoded[1].answer)


def test_the_prompt_is_encoded_as_it_is_when_the_model_is_asked(tokenizer: Any) -> None:
    pair = encode_pair(tokenizer, Pair("What?", "\nReturn"))
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What?"}], add_generation_prompt=True, return_dict=False
    )
    assert pair.prompt == asked


def test_a_template_that_loses_the_answer_is_refused(tokenizer: Any) -> None:
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    with pytest.raises(UserError, match="loses the answer"):
        encode_pair(other, Pair("q", "a"))


def test_padding_is_never_seen_by_what_carries_loss() -> None:
    """A short pair has the same loss alone as beside a long one."""
    import torch

    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape
    from pipelines.train.config import TrainConfig
    from pipelines.train.group import Group
    from pipelines.train.parallel import arrange

    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    model = build_llama(shape, vocab_size=40, max_positions=32, bos_id=0, eos_id=1, pad_id=2).eval()
    samples = PairSamples([EncodedPair([0, 5, 6], [7, 8]), EncodedPair(list(range(5, 25)), list(range(25, 35)))], 2)
    runner = arrange(model, TrainConfig(workers=1), Group())
    losses = [float(runner.losses([samples.batch(np.array(which))])) for which in ([0], [1], [0, 1])]
    assert losses[0] + losses[1] == pytest.approx(losses[2], abs=1e-4)
