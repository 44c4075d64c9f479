"""Preferences and prompts as tokens: what is cut of those that are too long, and what a plan shows of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from pipelines.align.config import AlignConfig
from pipelines.align.encoding import encode_pair, encode_pairs, encode_prompt, encode_prompts, encoder_of
from pipelines.align.records import load_records
from pipelines.cli import run_command
from pipelines.finetune.examples.records import Message, Preference, Prompted, asked
from pipelines.finetune.load import load_tokenizer

WORDS = "one two three four five six seven eight nine ten"
LONG = Preference(asked(WORDS), "red", "green and blue", "p.jsonl:7")


@pytest.fixture
def tokenizer(chat_model: Path) -> Any:
    return load_tokenizer(chat_model)


def encoder(tokenizer: Any, length: int, too_long: str = "refuse") -> Any:
    return encoder_of(
        AlignConfig.model_validate({"too_long": too_long, "sequence_length": length}), tokenizer, None, 96
    )


def by_hand(tokenizer: Any, *turns: str) -> list[int]:
    """transformers' own rendering of a conversation, up to the mark that ends its last answer."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": each} for number, each in enumerate(turns)]
    text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def test_both_answers_follow_what_is_left_of_one_prompt(tokenizer: Any) -> None:
    found = encode_pair(encoder(tokenizer, 96), LONG)
    assert found is not None and found[1] == LONG
    whole = found[0]
    assert list(whole.chosen.ids) == by_hand(tokenizer, WORDS, "red")
    assert list(whole.rejected.ids) == by_hand(tokenizer, WORDS, "green and blue")
    limit = len(whole.rejected) - 12
    for side, kept, lost in (("left", "ten", "one"), ("right", "one", "ten")):
        result = encode_pairs(encoder(tokenizer, limit, side), [LONG])
        (cut,), (record,) = result.encoded, result.records
        assert result.shortened == 1 and result.dropped == []
        assert limit - 4 <= len(cut.rejected) <= limit  # no more is lost than has to be
        (question,) = record.prompt
        assert kept in question.content and lost not in question.content
        assert list(cut.chosen.ids) == by_hand(tokenizer, question.content, "red")
        assert list(cut.rejected.ids) == by_hand(tokenizer, question.content, "green and blue")
        assert sum(cut.rejected.learned) == sum(whole.rejected.learned)


def test_answers_are_never_cut(tokenizer: Any) -> None:
    pair = Preference(asked("what?"), "red", WORDS, "p.jsonl:8")
    for side in ("left", "right"):
        with pytest.raises(UserError, match=r"^p.jsonl:8: it has \d+ tokens even without what is asked, more than the"):
            encode_pair(encoder(tokenizer, 16, side), pair)
    with pytest.raises(UserError, match=r"p.jsonl:8: it has .* more than the 16 that fit") as caught:
        encode_pair(encoder(tokenizer, 16), pair)
    assert "too_long: drop, or left or right" in caught.value.next_step
    assert encode_pair(encoder(tokenizer, 16, "drop"), pair) is None


def test_a_template_that_loses_an_answer_is_refused_naming_the_row(tokenizer: Any) -> None:
    losing = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    made = encoder_of(AlignConfig(), tokenizer, losing, 96)
    with pytest.raises(UserError, match=r"^p.jsonl:7: the chat template loses the answer"):
        encode_pairs(made, [LONG])


def test_a_prompt_leaves_room_for_an_answer(tokenizer: Any) -> None:
    record = Prompted(asked(WORDS), "p.jsonl:9")
    whole = encode_prompt(encoder(tokenizer, 96), record, 8)
    assert whole is not None and not whole[1]
    limit = len(whole[0].ids) + 8 - 6
    for side, kept, lost in (("left", "ten", "one"), ("right", "one", "ten")):
        result = encode_prompts(encoder(tokenizer, limit, side), [record], 8)
        (prompt,) = result.encoded
        assert result.shortened == 1
        assert limit - 12 <= len(prompt.ids) <= limit - 8
        assert kept in prompt.messages[0].content and lost not in prompt.messages[0].content
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.messages[0].content}], tokenize=False, add_generation_prompt=True
        )
        assert list(prompt.ids) == tokenizer(rendered, add_special_tokens=False).input_ids
    with pytest.raises(UserError, match=r"^p.jsonl:9: with its answer it has \d+ tokens even without what is asked"):
        encode_prompts(encoder(tokenizer, 16, "left"), [record], 14)


def test_the_oldest_turns_are_cut_first(tokenizer: Any) -> None:
    turns = (Message("user", WORDS), Message("assistant", "yes"), Message("user", "and then?"))
    pair = Preference(turns, "red", "blue", "p.jsonl:1")
    whole = encode_pair(encoder(tokenizer, 96), pair)
    assert whole is not None
    found = encode_pair(encoder(tokenizer, len(whole[0]) - 5, "left"), pair)
    assert found is not None
    assert found[1].prompt[1:] == turns[1:] and WORDS.endswith(found[1].prompt[0].content.strip())


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_cheap_trial_takes_a_part_of_what_a_larger_one_takes(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {n}", "chosen": "red", "rejected": "old"} for n in range(40)]
    data = write(tmp_path / "p.jsonl", rows)

    def used(subset: float | None) -> set[Any]:
        loaded = load_records(AlignConfig.model_validate({"data": data, "subset": subset}))
        assert loaded.validation
        return set(loaded.train) | set(loaded.validation)

    assert len(used(10)) == 10 and len(used(0.5)) == 20 and len(used(None)) == 40
    assert used(10) < used(0.5) < used(None)
    with pytest.raises(ValueError, match=r"subset\n.*1.5 is neither a share below 1 nor a whole number of examples"):
        AlignConfig.model_validate({"data": data, "subset": 1.5})


KINDS: dict[str, list[dict[str, Any]]] = {
    "preferences": [{"prompt": f"say {n}", "chosen": "red", "rejected": "old and long"} for n in range(9)],
    "ratings": [
        {"prompt": f"say {n}", "response": text, "rating": stars}
        for n in range(9)
        for text, stars in (("red", 5), ("warm", 3), ("old and long", 1))
    ],
    "prompts": [{"prompt": f"say {n}"} for n in range(9)],
}


def shown(recipe: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[list[str]]:
    """Words of each line about the first example: its place's line first."""
    assert run_command(["plan", str(recipe), "--examples", "2", *more]) == 0
    text = capsys.readouterr().out
    assert "example 2, " in text and "example 3" not in text
    lines = text.partition("example 1, ")[2].partition("\n\n")[0].splitlines()
    return [line.split() for line in lines]


@pytest.mark.parametrize("kind", ["preferences", "ratings"])
def test_a_plan_shows_both_answers_and_what_is_compared(
    kind: str, chat_model: Path, tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", KINDS[kind])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"store: {tmp_path / 'store'}\nalign: {{model: {chat_model}, data: {data}}}\n")
    lines = shown(recipe, capsys)
    assert lines[0][0].startswith("rows.jsonl:")
    number = int(lines[0][0].split(":")[1])
    question = KINDS[kind][number - 1]["prompt"]
    border = lines.index(["rejected:"])
    assert lines[1] == ["chosen:"]
    for side, answer in ((lines[2:border], "red"), (lines[border + 1 :], "old and long")):
        ids = [int(words[2 if words[1] == "*" else 1]) for words in side]
        assert ids == by_hand(tokenizer, question, answer)
        learned = [int(words[2]) for words in side if words[1] == "*"]
        assert ids[-len(learned) :] == learned
        assert tokenizer.decode(learned) == f"{answer}<|end|>"
    judged = shown(recipe, capsys, "--set", "align.method=reward")
    border = judged.index(["rejected:"])
    for side in (judged[2:border], judged[border + 1 :]):
        assert [words[1] == "*" for words in side] == [False] * (len(side) - 1) + [True]  # where a score is read


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_plan_shows_what_is_asked_where_the_model_answers(
    kind: str, chat_model: Path, tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", KINDS[kind])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"store: {tmp_path / 'store'}\n"
        f"align: {{model: {chat_model}, data: {data}, method: grpo, reward: 'a:b', answer_tokens: 5}}\n"
    )
    lines = shown(recipe, capsys)
    text = tokenizer.decode([int(words[1]) for words in lines[1:]])
    assert text.startswith("<|bos|><|user|>\nsay ") and text.endswith("<|end|>\n<|assistant|>\n")
    assert not any("*" in words for words in lines[1:])
    assert run_command(["plan", str(recipe), "--examples", "1", "--set", "align.answer_tokens=90"]) == 2
    assert "rows.jsonl:" in (told := capsys.readouterr().err) and "with its answer it has" in told


def test_a_plan_of_both_shows_both_in_the_template_that_fine_tuning_leaves(
    chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (tmp_path / "own.jinja").write_text(template)
    chats = write(tmp_path / "chats.jsonl", [{"prompt": f"q {n}", "completion": "red"} for n in range(9)])
    pairs = write(tmp_path / "pairs.jsonl", KINDS["preferences"])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"store: {tmp_path / 'store'}\n"
        f"finetune: {{model: {chat_model}, data: {chats}, chat_template: {tmp_path / 'own.jinja'}}}\n"
        f"align: {{data: {pairs}}}\n"
    )
    assert run_command(["plan", str(recipe), "--examples", "1", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["examples"]
    tuned, _, aligned = "\n".join(lines).partition("align learns from:")
    assert (
        lines[0] == "finetune learns from:"
        and "example 1, chats.jsonl:" in tuned
        and "example 1, pairs.jsonl:" in aligned
    )
    assert "<|user|>" not in tuned + aligned
    recipe.write_text(f"store: {tmp_path / 'store'}\npretrain: {{size: nano}}\n")
    assert run_command(["plan", str(recipe), "--examples", "1"]) == 2
    assert "the recipe has no section finetune or align" in capsys.readouterr().err
