from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from pipelines.finetune.examples.encode import Encoded, Encoder
from pipelines.finetune.examples.records import Conversation, Message, Text, dialogue
from pipelines.finetune.examples.samples import ExampleSamples, pack
from pipelines.finetune.examples.template import load_template
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe
from pipelines.train.task import IGNORED

TURNS = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "What?"),
        Message("assistant", "Return the sum."),
        Message("user", "And then?"),
        Message("assistant", "It."),
    ),
    "chats.jsonl:7",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_folder(learn_bpe(["What does it do? Return the sum."] * 3, 320, 2), folder)
    return AutoTokenizer.from_pretrained(folder)


def encoder(tokenizer: Any, template: str | None = None, length: int = 200, **settings: Any) -> Encoder:
    return Encoder(tokenizer, template, length, settings.pop("too_long", "refuse"), "finetune", **settings)


def learned_text(tokenizer: Any, encoded: Encoded) -> str:
    return str(tokenizer.decode([token for token, counts in zip(encoded.ids, encoded.learned, strict=True) if counts]))


def test_answers_and_their_ends_carry_loss_and_nothing_else_does(tokenizer: Any) -> None:
    pairs = [dialogue("What?", "Return the sum."), dialogue("What does it do? Tell me.", "It.")]
    encoded = encoder(tokenizer).encode_all(pairs).encoded
    samples = ExampleSamples(encoded, tokenizer.pad_token_id)
    batch = samples.batch(np.array([0, 1]))
    assert batch.inputs.shape == batch.labels.shape
    for row, pair in enumerate(pairs):
        inputs, labels = batch.inputs[row].tolist(), batch.labels[row].tolist()
        learned = [label for label in labels if label != IGNORED]
        assert tokenizer.decode(learned) == pair.messages[1].content + "<|end|>"
        # Token by token: where there is a label, it is the token that follows in the conversation.
        whole = tokenizer(
            f"<|bos|><|user|>\n{pair.messages[0].content}<|end|>\n<|assistant|>\n{pair.messages[1].content}<|end|>",
            add_special_tokens=False,
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
    assert samples.targets(np.array([1])) == encoded[1].targets


def test_in_a_conversation_every_answer_carries_loss_or_the_last_or_everything(tokenizer: Any) -> None:
    found = encoder(tokenizer).whole(TURNS)
    assert learned_text(tokenizer, found) == "Return the sum.<|end|>It.<|end|>"
    assert found.where == "chats.jsonl:7"
    last = encoder(tokenizer, learns="last_answer").whole(TURNS)
    assert (last.ids, learned_text(tokenizer, last)) == (found.ids, "It.<|end|>")
    assert all(encoder(tokenizer, learns="everything").whole(TURNS).learned)
    # The tokens are those of the whole conversation, without the line end that would begin the next turn.
    messages = [vars(message) for message in TURNS.messages]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    assert list(found.ids) == tokenizer(whole, add_special_tokens=False).input_ids


def test_the_prompt_is_encoded_as_it_is_when_the_model_is_asked(tokenizer: Any) -> None:
    """Also where the answer's first token would join the prompt's last."""
    found = encoder(tokenizer).whole(dialogue("What?", "\nReturn"))
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What?"}], add_generation_prompt=True, return_dict=False
    )
    assert list(found.ids[: len(asked)]) == asked
    assert not any(found.learned[: len(asked)]) and all(found.learned[len(asked) :])


def test_no_token_spans_prompt_and_answer(tokenizer: Any) -> None:
    prompt, answer = "What does it do? Ret", "urn the sum."
    asked = tokenizer(prompt, add_special_tokens=False).input_ids
    whole = tokenizer(prompt + answer, add_special_tokens=False).input_ids
    assert whole[: len(asked)] != asked  # the word would be one token
    found = encoder(tokenizer, "plain").whole(dialogue(prompt, answer))
    assert list(found.ids[: 1 + len(asked)]) == [tokenizer.bos_token_id, *asked]
    assert learned_text(tokenizer, found) == f"{answer}{tokenizer.eos_token}"
    assert tokenizer.decode(found.ids) == f"{tokenizer.bos_token}{prompt}{answer}{tokenizer.eos_token}"


def test_an_answer_that_is_encoded_apart_begins_without_a_space_of_the_tokenizers_own() -> None:
    """As tokenizers of llamas have it, which write words with the space before them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    for scheme in ("first", "always"):
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "first")
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        alphabet = ["▁", "\n", ".", *"abcdefghijklmnopqrstuvwxyzSQA"]
        trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
        made.train_from_iterator(["See the sum. Be so. Sum of all so see the sum."] * 9, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
        asked, answer = "Q see the ", "sum."
        ids = tokenizer(asked, add_special_tokens=False).input_ids
        assert tokenizer(asked + answer, add_special_tokens=False).input_ids[: len(ids)] != ids
        found = encoder(tokenizer, "plain").whole(dialogue(asked, answer))
        assert list(found.ids[: len(ids)]) == ids
        assert tokenizer.decode(found.ids) == f"{asked}{answer}</s>"
        assert any(found.learned)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'][:2] }};{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    ],
)
def test_a_template_that_loses_the_answer_is_refused_naming_the_row(tokenizer: Any, template: str) -> None:
    with pytest.raises(UserError, match=r"a.jsonl:3: the chat template loses the answer"):
        encoder(tokenizer, template).whole(dialogue("question", "answer", "a.jsonl:3"))


FORGETFUL = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>\n"
    "{% if loop.last %}(Thought about it.) {% endif %}{{ m['content'] }}<|end|>\n"
    "{% else %}<|user|>\n{{ m['content'] }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""As templates of models that think: only the last answer is shown with its thoughts."""


def test_of_a_template_that_rewrites_earlier_answers_the_last_is_learned_as_it_is_asked_for(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"chats.jsonl:7: the chat template writes an answer otherwise") as caught:
        encoder(tokenizer, FORGETFUL).whole(TURNS)
    assert "set loss_on: last_answer" in caught.value.next_step
    found = encoder(tokenizer, FORGETFUL, learns="last_answer").whole(TURNS)
    assert learned_text(tokenizer, found) == "(Thought about it.) It.<|end|>"
    asked = tokenizer.apply_chat_template(
        [vars(message) for message in TURNS.messages[:-1]],
        chat_template=FORGETFUL,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(found.ids[: found.learned.index(True)]) == asked
    assert "Thought" not in tokenizer.decode(asked)
    short = encoder(tokenizer, FORGETFUL, len(found) - 4, learns="last_answer", too_long="left").encode(TURNS)
    assert short is not None and learned_text(tokenizer, short[0]) == "(Thought about it.) It.<|end|>"


def test_a_template_that_refuses_a_conversation_names_the_row(tokenizer: Any) -> None:
    template = "{{ raise_exception('no system messages here') }}"
    with pytest.raises(UserError, match=r"chats.jsonl:7: the chat template refuses it: no system messages"):
        encoder(tokenizer, template).whole(TURNS)


def test_what_is_no_template_is_not_blamed_on_a_row(tokenizer: Any) -> None:
    broken = "{% for m in messages %}\n{{ m.content }"
    with pytest.raises(UserError, match=r"^finetune.chat_template: is no Jinja template: .*, in its line 2"):
        encoder(tokenizer, broken).whole(TURNS)


def test_without_a_template_it_is_asked_for_and_plain_is_one(tokenizer: Any, tmp_path: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserError, match=r"finetune.chat_template: the tokenizer has no chat template"):
        encoder(bare).whole(TURNS)
    plain = encoder(bare, "plain").whole(dialogue("What?", " Return"))
    assert tokenizer.decode(plain.ids).removeprefix("<|bos|>") == f"What? Return{tokenizer.eos_token}"
    assert learned_text(tokenizer, plain) == f" Return{tokenizer.eos_token}"
    path = tmp_path / "template.jinja"
    path.write_text(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    found = encoder(bare, load_template(str(path))).whole(dialogue("What?", "Return"))
    assert tokenizer.decode(found.ids) == "[user]What?[assistant]Return"
    with pytest.raises(UserError, match="cannot be read"):
        load_template(str(tmp_path / "absent.jinja"))


def test_a_text_is_learned_whole_with_its_end(tokenizer: Any) -> None:
    found = encoder(tokenizer).whole(Text("Return the sum.", "t:1"))
    assert learned_text(tokenizer, found).endswith(f"Return the sum.{tokenizer.eos_token}")
    assert found.targets >= len(found) - 1 - 1


def test_what_is_too_long_is_refused_dropped_or_shortened_where_it_asks(tokenizer: Any) -> None:
    long = dialogue("one two three four five six seven eight nine ten", "Return the sum.", "a.jsonl:9")
    whole = encoder(tokenizer).whole(long)
    limit = len(whole) - 12
    with pytest.raises(UserError, match=rf"a.jsonl:9: {len(whole)} tokens, .* are more than the {limit} that fit"):
        encoder(tokenizer, length=limit).encode(long)
    found = encoder(tokenizer, length=limit, too_long="drop").encode_all([long, dialogue("What?", "It.")])
    assert found.dropped == ["a.jsonl:9"] and len(found.encoded) == len(found.examples) == 1
    for side, kept, lost in (("left", "ten", "one"), ("right", "one", "ten")):
        shortened = encoder(tokenizer, length=limit, too_long=side).encode_all([long])
        text = tokenizer.decode(shortened.encoded[0].ids)
        assert len(shortened.encoded[0]) <= limit and shortened.shortened == 1
        assert kept in text and lost not in text
        assert text.startswith("<|bos|><|user|>\n") and "<|end|>\n<|assistant|>\n" in text
        assert learned_text(tokenizer, shortened.encoded[0]) == "Return the sum.<|end|>"


def test_an_answer_longer_than_the_context_is_refused_naming_the_row(tokenizer: Any) -> None:
    for side in ("refuse", "left", "right"):
        with pytest.raises(UserError, match=r"a.jsonl:9: .* of them answers, are more than the 6 that fit") as caught:
            encoder(tokenizer, length=6, too_long=side).encode(dialogue("What?", "one two three four", "a.jsonl:9"))
        assert "cut the answer into several rows" in caught.value.next_step


def test_texts_are_cut_at_the_side_that_is_asked_for(tokenizer: Any) -> None:
    text = Text("one two three four", "t:1")
    whole = encoder(tokenizer).whole(text)
    for side, expected in (("left", whole.ids[-5:]), ("right", whole.ids[:5])):
        found = encoder(tokenizer, length=5, too_long=side).encode(text)
        assert found is not None and found[0].ids == expected


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_packing_loses_nothing_and_overfills_no_row(lengths: list[int]) -> None:
    rows = pack(lengths, 12)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 12 for row in rows)
    # Best-fit decreasing is within 11/9 of the best, plus a row (Johnson 1973).
    assert len(rows) <= 11 / 9 * max(-(-sum(lengths) // 12), 1) * 2
    halves = sum(length > 6 for length in lengths)
    assert len(rows) >= halves


EXAMPLES = [
    Encoded((0, 5, 6, 7, 8), (False, False, False, True, True)),
    Encoded(tuple(range(5, 35)), (False,) * 20 + (True,) * 10),
    Encoded((0, 9, 10, 11), (False, False, True, True)),
]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_examples_have_the_same_loss_alone_beside_and_packed_with_others(architecture: str) -> None:
    from pipelines.models.gpt2 import build_gpt2
    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape
    from pipelines.train.config import TrainConfig
    from pipelines.train.group import Group
    from pipelines.train.parallel import arrange

    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    build = build_llama if architecture == "llama" else build_gpt2
    model = build(shape, vocab_size=40, max_positions=64, bos_id=0, eos_id=1, pad_id=2).eval()
    runner = arrange(model, TrainConfig(workers=1), Group())

    def loss(samples: ExampleSamples, which: list[int]) -> float:
        return float(runner.losses([samples.batch(np.array(which))]))

    alone = ExampleSamples(EXAMPLES, 2)
    apart = [loss(alone, [number]) for number in range(3)]
    assert loss(alone, [0, 1, 2]) == pytest.approx(sum(apart), abs=1e-4)
    packed = ExampleSamples(EXAMPLES, 2, capacity=40)
    assert len(packed) == 1
    assert loss(packed, [0]) == pytest.approx(sum(apart), abs=1e-4)
    assert packed.targets(np.array([0])) == alone.targets(np.array([0, 1, 2])) == 2 + 10 + 2
    # Without positions that begin anew the examples would see each other: the test can fail.
    batch = packed.batch(np.array([0]))
    leaking = type(batch)(batch.inputs, batch.labels)
    assert float(runner.losses([leaking])) != pytest.approx(sum(apart), abs=1e-2)
