from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cluster.errors import UserError
from cluster.store import Store
from pipelines.finetune.examples.config import AnyRows, Rows, rows_identity
from pipelines.finetune.examples.divide import choose, split, subset
from pipelines.finetune.examples.read import read_examples
from pipelines.finetune.examples.records import (
    Conversation,
    Message,
    Preference,
    Rated,
    Text,
    dialogue,
    parse_jsonl,
    to_jsonl,
)

EVERY = ("chat", "pairs", "alpaca", "text", "preferences", "ratings")
USER, ANSWER = Message("user", "Why?"), Message("assistant", "Because.")


def source(value: Any) -> AnyRows:
    made: AnyRows = TypeAdapter(Rows).validate_python(value)
    return made


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **settings: Any) -> list[Any]:
    return read_examples(source({"kind": "jsonl", "path": str(path), **settings}), "finetune.data", EVERY).examples


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Why?", "completion": "Because."}, Conversation((USER, ANSWER))),
        ({"question": "Why?", "answer": "Because.", "id": 3}, Conversation((USER, ANSWER))),
        ({"instruction": "Why?", "input": "", "output": "Because."}, Conversation((USER, ANSWER))),
        (
            {"instruction": "Add.", "input": "1 and 2", "output": "3"},
            dialogue("Add.\n\n1 and 2", "3"),
        ),
        (
            {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Why?"}, vars(ANSWER)]},
            Conversation((Message("system", ""), USER, ANSWER)),
        ),
        (
            {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
            Conversation((USER, ANSWER)),
        ),
        ({"text": "Once."}, Text("Once.")),
        ({"prompt": "Why?", "chosen": "a", "rejected": "b"}, Preference((USER,), "a", "b")),
        (
            {"chosen": [vars(USER), vars(ANSWER)], "rejected": [vars(USER), {"role": "assistant", "content": "b"}]},
            Preference((USER,), "Because.", "b"),
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Why?"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            Preference((USER,), "a", "b"),
        ),
        ({"prompt": "Why?", "response": "a", "rating": 4}, Rated((USER,), "a", 4.0)),
        ({"prompt": "Why?", "completion": "a", "label": True}, Rated((USER,), "a", 1.0)),
    ],
)
def test_every_common_form_is_known_by_its_columns(row: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.jsonl", row))
    assert found == [expected]
    assert found[0].where == "a.jsonl:1"
    assert parse_jsonl(to_jsonl(found)) == found
    assert parse_jsonl(to_jsonl(found))[0].where == "a.jsonl:1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "completion": 3}, "a.jsonl:2: completion is missing, empty or not text"),
        ({"prompt": " ", "completion": "y"}, "a.jsonl:2: prompt is missing, empty"),
        ([1], "a.jsonl:2: not a JSON object"),
        ({"prompt": "x", "chosen": "a", "rejected": ""}, "a.jsonl:2: rejected is missing or empty: a preference has"),
        ({"prompt": "x", "chosen": "a"}, "a.jsonl:2: rejected is missing"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "a.jsonl:2: chosen and rejected are the same"),
        ({"chosen": "a", "rejected": "b"}, "a.jsonl:2: there is no prompt"),
        ({"messages": []}, "a.jsonl:2: messages is empty"),
        ({"messages": "Why?"}, "a.jsonl:2: messages is not a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "a.jsonl:2: the last message is the user's"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"a.jsonl:2: messages\[0\] has the role 'king'"),
        ({"messages": [{"role": "user", "content": None}]}, r"a.jsonl:2: messages\[0\] has no content"),
        ({"text": ""}, "a.jsonl:2: text is missing, empty"),
        ({"prompt": "x", "response": "y", "rating": "good"}, "a.jsonl:2: rating is 'good', not a number"),
        ({"prompt": "x", "response": "y", "rating": float("nan")}, "a.jsonl:2: rating is nan"),
    ],
)
def test_a_bad_row_is_named(row: Any, message: str, tmp_path: Path) -> None:
    form = {"messages": "chat", "text": "text", "rejected": "preferences", "chosen": "preferences", "rating": "ratings"}
    chosen = next((form[key] for key in form if key in row), "pairs")
    good = {
        "chat": {"messages": [vars(USER), vars(ANSWER)]},
        "text": {"text": "x"},
        "preferences": {"prompt": "x", "chosen": "a", "rejected": "b"},
        "ratings": {"prompt": "x", "response": "y", "rating": 1},
        "pairs": {"prompt": "a", "completion": "b"},
    }[chosen]
    path = write(tmp_path / "a.jsonl", good, row)
    with pytest.raises(UserError, match=message):
        read(path)
    skipped = read_examples(source({"kind": "jsonl", "path": str(path), "bad_rows": "skip"}), "data", EVERY)
    assert (len(skipped.examples), len(skipped.bad)) == (1, 1)
    assert skipped.bad[0].startswith("a.jsonl:2: ")


def test_broken_lines_and_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "x"}\n{"text": \n')
    with pytest.raises(UserError, match=r"a.jsonl:3: not valid JSON"):
        read(path)
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(UserError, match=r"a.jsonl:1: is not UTF-8"):
        read(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="there is no example in it"):
        read(path)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.jsonl")
    path.write_text('{"title": "x"}\n')
    with pytest.raises(UserError, match=r"a.jsonl:1: its columns \(title\) are of no known form"):
        read(path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"b.parquet: is no Parquet file"):
        read_examples(source(str(tmp_path / "b.parquet")), "data", EVERY)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(UserError, match=r"c.json: is no JSON list"):
        read_examples(source(str(tmp_path / "c.json")), "data", EVERY)


def test_a_form_that_the_method_cannot_use_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "chosen": "a", "rejected": "b"})
    with pytest.raises(UserError, match=r"a.jsonl:1: the rows are preferences, and this method learns from chat or"):
        read_examples(source(str(path)), "finetune.data", ("chat", "pairs"))


def test_own_names_of_columns_and_a_system_message(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"ask": "Why?", "reply": "Because."})
    found = read(path, form="pairs", fields={"prompt": "ask", "completion": "reply"}, system="Be kind.")
    assert found == [Conversation((Message("system", "Be kind."), USER, ANSWER))]
    assert read(path, fields={"prompt": "ask", "completion": "reply"}) == [Conversation((USER, ANSWER))]
    with pytest.raises(UserError, match="colour is nothing that rows of the form pairs have"):
        read(path, form="pairs", fields={"colour": "ask"})
    with pytest.raises(
        UserError, match=r"a\.jsonl: data.fields names the column rply for completion, and there is none; did"
    ):
        read(path, fields={"prompt": "ask", "completion": "rply"})


def test_the_same_rows_from_every_kind_of_file_and_from_s3(s3_store: Store, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"q{number}", "completion": f"a{number}"} for number in range(5)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(text))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    s3_store.write("rows/a.jsonl", text)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_bytes(text)
    places: list[Any] = [str(tmp_path / name) for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json")]
    places += [str(tmp_path / "a.parquet"), s3_store.uri("rows/a.jsonl"), {"kind": "hf", "path": str(tmp_path / "hub")}]
    expected = [dialogue(row["prompt"], row["completion"]) for row in rows]
    for place in places:
        found = read_examples(source(place), "finetune.data", EVERY).examples
        assert found == expected, place
        assert found[3].where.endswith(":4")
    assert rows_identity(source(places[0])) == rows_identity(source(places[0]))
    assert str(tmp_path) not in json.dumps([rows_identity(source(place)) for place in places])


OF_EVERY_FORM: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"messages": [vars(USER), vars(ANSWER)]},
        {"messages": [{"role": "system", "content": "Be brief."}, vars(USER), vars(ANSWER), vars(USER), vars(ANSWER)]},
    ],
    "pairs": [{"prompt": "Why?", "completion": "a"}, {"prompt": "Why not?", "completion": "b"}],
    "alpaca": [{"instruction": "Add.", "input": "1", "output": "2"}, {"instruction": "Go.", "output": "Gone."}],
    "text": [{"text": "Once."}, {"text": "Twice."}],
    "preferences": [
        {"prompt": [vars(USER)], "chosen": [vars(ANSWER)], "rejected": [{"role": "assistant", "content": "b"}]},
        {
            "prompt": [vars(USER), vars(ANSWER), vars(USER)],
            "chosen": [vars(ANSWER)],
            "rejected": [vars(USER) | {"role": "assistant"}],
        },
    ],
    "ratings": [{"prompt": "Why?", "response": "a", "rating": 4}, {"prompt": "Why?", "response": "b", "rating": 1.5}],
    "prompts": [{"prompt": "Why?"}, {"prompt": "Why not?"}],
    "labelled": [{"text": "Once.", "label": "x"}, {"text": "Twice.", "pair": "Thrice.", "label": "y"}],
}


@pytest.mark.parametrize("form", OF_EVERY_FORM)
def test_every_form_is_the_same_in_every_kind_of_file_here_on_s3_and_in_the_hubs_layout(
    form: str, s3_store: Store, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = OF_EVERY_FORM[form]
    (tmp_path / "hub").mkdir()
    lines = write(tmp_path / "a.jsonl", *rows)
    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows])
    for path in (tmp_path / "a.parquet", tmp_path / "hub" / "train.parquet"):
        pq.write_table(table, path)
    places: list[Any] = [str(lines), str(tmp_path / "a.parquet"), {"kind": "hf", "path": str(tmp_path / "hub")}]
    for path in (lines, tmp_path / "a.parquet"):
        s3_store.write(f"{form}/{path.name}", path.read_bytes())
        places.append(s3_store.uri(f"{form}/{path.name}"))
    found = []
    for place in places:
        given = source({"kind": "hf", **place} if isinstance(place, dict) else place)
        if form == "labelled":
            given = given.model_copy(update={"form": form})
        found.append(read_examples(given, "finetune.data", (form,)).examples)
    assert all(each == found[0] for each in found)
    assert len(set(found[0])) == 2


def test_a_bare_place_says_what_it_is() -> None:
    assert source("x/y.jsonl.gz").kind == "jsonl"
    assert source("hf://a/b").kind == "hf"
    with pytest.raises(ValueError, match=r"'x.csv' does not say what kind of file it is"):
        source("x.csv")
    with pytest.raises(ValueError, match="datasets of the Hub have the kind hf"):
        source({"kind": "jsonl", "path": "hf://a"})


EXAMPLES = st.lists(
    st.builds(dialogue, st.text("abcd", min_size=1, max_size=3), st.text("xyz", min_size=1)), max_size=60
)


@given(EXAMPLES, st.floats(0.01, 0.49))
def test_no_prompt_is_on_both_sides(examples: list[Any], fraction: float) -> None:
    examples = choose(examples)
    if len({each.opening for each in examples}) < 2:
        with pytest.raises(UserError, match="too few"):
            split(examples, fraction, "finetune.data")
        return
    train, validation = split(examples, fraction, "finetune.data")
    assert train and validation
    assert not {each.opening for each in train} & {each.opening for each in validation}
    assert sorted(map(str, train + validation)) == sorted(map(str, examples))


@given(EXAMPLES, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_and_a_subset_is_part_of_a_larger_one(
    examples: list[Any], random: Any
) -> None:
    shuffled = list(examples)
    random.shuffle(shuffled)
    assert choose(examples) == choose(shuffled)
    assert choose(examples, 3) == choose(shuffled)[:3]
    chosen = choose(examples)
    assert subset(chosen, 2) == chosen[:2]
    assert subset(chosen, None) == chosen
    if chosen:
        assert subset(chosen, 0.5) == chosen[: max(round(len(chosen) / 2), 1)]


def test_the_held_out_share_is_about_the_one_asked_for() -> None:
    examples = [dialogue(f"question {n}", "answer") for n in range(4000)]
    assert 0.08 < len(split(examples, 0.1, "here")[1]) / 4000 < 0.12


@pytest.mark.anchor
def test_the_real_preference_and_instruction_sets(anchors: Path) -> None:
    preferences = source(str(anchors / "corpora" / "preference" / "dpo_en_demo.json"))
    found = read_examples(preferences, "align.data", ("preferences",)).examples
    assert len(found) == 300
    assert all(isinstance(each, Preference) and each.chosen != each.rejected for each in found)
    pairs = read_examples(
        source(str(anchors / "corpora" / "instruction" / "dolly_1000.jsonl")), "finetune.data", ("pairs",)
    )
    assert len(pairs.examples) == 1000
