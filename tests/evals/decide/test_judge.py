"""A judge over HTTP: fair, swayed by order or length, silent, dying; and people with a sheet."""

from __future__ import annotations

import csv
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.errors import InfraError, UserError
from cluster.store import Store
from evals.answers import AnswerBook
from evals.decide.judge import Judge, answered_pairs, read_grade, read_verdict, spearman
from evals.decide.reading import Document, Key, load_measured
from evals.decide.review import COLUMNS, VOTE, export_sheet, import_votes
from evals.endpoint import Endpoint
from pipelines.cli import run_command

from .conftest import coin, sample_row, write_evaluation

Opinion = Callable[[str], str]


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # a refused connection is tried again a second later


@pytest.fixture
def serve() -> Iterator[Callable[[Opinion], Endpoint]]:
    """Starts judges with an opinion: prompt -> words."""
    servers = []

    def start(opinion: Opinion) -> Endpoint:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments: Any) -> None:
                return

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/chat/completions"
                text = opinion(body["messages"][0]["content"])
                told = {"odd": text} if text.startswith("{") else {"choices": [{"message": {"content": text}}]}
                data = json.dumps(told).encode()
                self.send_response(400 if text.startswith("too long") else 200 if text else 503)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return Endpoint(f"http://127.0.0.1:{server.server_port}", "judge", pauses_s=(0.01,))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def pairs(count: int, b_better: int) -> dict[Key, tuple[Document, Document]]:
    """Documents of which B answers so many well and A the rest; B's answers are longer throughout."""

    def document(number: int, good: bool, length: int) -> Document:
        text = ("good" if good else "bad") + " x" * length
        return Document("t", str(number), {}, f"request {number}", (), text, "reference")

    return {
        ("t", str(number), 0): (document(number, number >= b_better, 5), document(number, number < b_better, 20))
        for number in range(count)
    }


def answers_in(prompt: str) -> tuple[str, str]:
    found = re.search(r"\[Answer 1\]\n(.*)\n\n\[Answer 2\]\n(.*)\n\nSay", prompt, re.DOTALL)
    assert found
    return found[1], found[2]


def fair(prompt: str) -> str:
    first, second = answers_in(prompt)
    return f"One is better.\nVerdict: {'1' if 'good' in first and 'bad' in second else '2'}"


def test_a_fair_judge(serve: Callable[[Opinion], Endpoint]) -> None:
    done: list[int] = []
    found = Judge(serve(fair)).compare(pairs(40, 30), done.append)
    assert (found.tally.b_wins, found.tally.a_wins, found.tally.ties) == (30, 10, 0)
    assert found.tally.verdict == "better"
    assert (found.same, found.agreement, found.first_share) == (40, 1.0, 0.5)
    assert not found.position_bias
    assert sum(done) == 80
    assert found.length.shown  # B writes more and is better: a warning to look, not a verdict


def test_a_judge_that_follows_the_order_is_found_out_and_decides_nothing(
    serve: Callable[[Opinion], Endpoint],
) -> None:
    found = Judge(serve(lambda _: "Verdict: 1")).compare(pairs(30, 20))
    assert (found.tally.ties, found.same, found.tally.verdict) == (30, 0, "no evidence")
    assert found.position_bias
    assert found.first_share == 1.0
    assert found.agreement is not None
    assert found.agreement < 0


def test_a_judge_that_follows_the_length_is_found_out(serve: Callable[[Opinion], Endpoint]) -> None:
    def longest(prompt: str) -> str:
        first, second = answers_in(prompt)
        return f"verdict: **{'1' if len(first) > len(second) else '2'}**"

    found = Judge(serve(longest)).compare(pairs(30, 15))
    assert (found.length.longer_wins, found.length.decided, found.length.shown) == (30, 30, True)
    assert found.length.difference_alike is None


def test_what_cannot_be_read_is_left_out(serve: Callable[[Opinion], Endpoint]) -> None:
    found = Judge(serve(lambda prompt: fair(prompt) if "request 1" in prompt else "I like both.")).compare(
        pairs(20, 15)
    )
    assert found.tally.documents == 11
    assert found.unreadable == 9
    with pytest.raises(UserError, match="not one of its verdicts can be read"):
        Judge(serve(lambda _: "Hm.")).compare(pairs(3, 1))
    with pytest.raises(UserError, match="fewer than two of its grades"):
        Judge(serve(lambda _: "Hm.")).grade(pairs(3, 1))


@pytest.mark.parametrize(
    ("text", "verdict", "grade"),
    [
        ("Verdict: 1", "1", None),
        ("at first Verdict: 1, but then\n**Verdict:** 2", "2", None),
        ("VERDICT - Tie.", "tie", None),
        ("Verdict: 12", None, None),
        ("Grade: 4", None, 4),
        ("grade **5**", None, 5),
        ("Grade: 4.5", None, None),
        ("Grade: 10", None, None),
        ("", None, None),
    ],
)
def test_reading_a_judges_words(text: str, verdict: str | None, grade: int | None) -> None:
    assert read_verdict(text) == verdict
    assert read_grade(text) == grade


def test_what_is_no_judge_is_refused_with_what_it_said(serve: Callable[[Opinion], Endpoint]) -> None:
    with pytest.raises(UserError, match=r"gives no message: \{'odd': '\{\}'\}"):
        Judge(serve(lambda _: "{}")).compare(pairs(3, 1))
    with pytest.raises(UserError, match=r"HTTP 400.*too long") as caught:
        Judge(serve(lambda _: "too long")).grade(pairs(3, 1))
    assert "message of this length" in caught.value.next_step


def test_grades(serve: Callable[[Opinion], Endpoint]) -> None:
    def grade(prompt: str) -> str:
        assert "[A right answer]\nreference" in prompt
        return "Grade: 4" if "good" in prompt else "Grade: 2"

    found = Judge(serve(grade), "Be strict.").grade(pairs(40, 30))
    assert (found.a, found.b) == (pytest.approx(2.5), pytest.approx(3.5))
    assert found.difference.difference == pytest.approx(1.0)
    assert found.difference.p_value < 0.01
    grades = [grade for both in found.grades.values() for grade in both]
    lengths = [len(each.output) for both in pairs(40, 30).values() for each in both]
    assert found.length_correlation == pytest.approx(stats.spearmanr(grades, lengths).statistic)


@pytest.mark.parametrize(
    ("target", "shown"),
    [("Paris", "Paris"), (["Paris", "the city"], "Paris"), (" ", ""), ([], ""), (2, ""), (None, "")],
)
def test_a_judge_sees_a_right_answer_only_where_there_is_one(
    target: Any, shown: str, serve: Callable[[Opinion], Endpoint]
) -> None:
    seen: list[str] = []
    document = Document("t", "0", {}, "the capital?", (), "Rome", target)
    keyed: dict[Key, tuple[Document, Document]] = {("t", str(n), 0): (document, document) for n in range(2)}
    Judge(serve(lambda prompt: seen.append(prompt) or "Grade: 3")).grade(keyed)  # type: ignore[func-returns-value]
    assert all((f"[A right answer]\n{shown}\n" in prompt) == bool(shown) for prompt in seen)
    assert any("[A right answer]" in prompt for prompt in seen) == bool(shown)


def test_rank_correlation_is_scipys() -> None:
    first, second = [1.0, 2, 2, 4, 5, 5, 1], [3.0, 1, 2, 2, 9, 4, 1]
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert spearman([1, 1], [1, 2]) is None


def test_a_judge_that_dies_is_asked_only_the_rest(serve: Callable[[Opinion], Endpoint], store: Store) -> None:
    asked: list[str] = []

    def dies(prompt: str) -> str:
        asked.append(prompt)
        return fair(prompt) if len(asked) <= 15 else ""

    def book() -> AnswerBook:
        return AnswerBook.of(store, "judge", {})

    with pytest.raises(InfraError, match="does not answer"):
        Judge(serve(dies), book=book(), in_flight=1).compare(pairs(20, 15))
    again: list[str] = []
    found = Judge(serve(lambda prompt: again.append(prompt) or fair(prompt)), book=book()).compare(pairs(20, 15))  # type: ignore[func-returns-value]
    assert len(again) == 40 - 15
    assert found.tally.b_wins == 15


def test_a_sheet_hides_whose_answers_are_whose_and_gives_the_votes_back(tmp_path: Path) -> None:
    documents = pairs(40, 30)
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.json"
    assert export_sheet(documents, sheet, key, ("base", "tuned"), None, 1) == 40
    text = sheet.read_text(encoding="utf-8-sig")
    assert "base" not in text and "tuned" not in text
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    left = sum(row["answer 1"].count("x") == 20 for row in rows)
    assert 10 < left < 30  # B's longer answers stand on either side
    for name, careless in (("ann.csv", 0), ("bob.csv", 4)):
        for number, row in enumerate(rows):
            good = "1" if "good" in row["answer 1"] else "2"
            row[VOTE] = "tie" if number < careless else good
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows[::-1])
    found, names = import_votes([tmp_path / "ann.csv", tmp_path / "bob.csv"], key)
    assert names == ("base", "tuned")
    assert found.tally.documents == 40
    assert found.tally.ties == 4  # one said tie, the other not: no majority
    assert found.tally.b_wins + found.tally.a_wins == 36
    assert found.by == {"ann.csv": 40, "bob.csv": 40}
    assert found.agreement is not None
    assert 0.7 < found.agreement < 1
    assert all(vote != "b" or document[1].output.startswith("good") for (place, vote), document in
               zip(found.votes.items(), (documents[place] for place in found.votes), strict=True))  # fmt: skip


def test_sheets_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    sheet, key = tmp_path / "s.csv", tmp_path / "k.json"
    export_sheet(pairs(5, 2), sheet, key, ("a", "b"), 3, 1)
    with pytest.raises(UserError, match="not one vote"):
        import_votes([sheet], key)
    text = sheet.read_text(encoding="utf-8-sig")
    for wrong, words in (
        (text.replace("good", "fine"), "not those that were exported"),
        ("x,y\n1,2\n", "not a sheet"),
        (text.replace("bad x x x x x,,", "bad x x x x x,3,").replace("x,,", "x,3,"), "'3' is no vote"),
    ):
        (tmp_path / "w.csv").write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError, match=words):
            import_votes([tmp_path / "w.csv"], key)
    (tmp_path / "half.json").write_text('{"lines": []}')
    for wrong_key in (sheet, tmp_path / "half.json"):
        with pytest.raises(UserError, match="is no key"):
            import_votes([sheet], wrong_key)


def test_a_formula_in_an_answer_is_no_formula_in_the_sheet(tmp_path: Path) -> None:
    documents = {
        ("t", "1", 0): (
            Document("t", "1", {}, "=1+1", (), "=HYPERLINK(1)", ""),
            Document("t", "1", {}, "", (), "-2", ""),
        )
    }
    sheet, key = tmp_path / "s.csv", tmp_path / "k.json"
    export_sheet(documents, sheet, key, ("a", "b"), None, 1)
    text = sheet.read_text(encoding="utf-8-sig")
    assert "'=HYPERLINK" in text and "'=1+1" in text and "'-2" in text
    lines = text.splitlines()
    sheet.write_text("\n".join([lines[0], lines[1][: -len(",,")] + ",tie,"]))
    assert import_votes([sheet], key)[0].tally.ties == 1


def write_answers(folder: Path, good: int) -> Path:
    write_evaluation(folder, {"capitals": {"capitals": coin(1, 12, 0.5)}}, model=f"Model/{folder.name}")
    rows = []
    for number in range(12):
        row = sample_row("capitals", number, "exact_match", 1.0)
        del row["answers"]
        rows.append({**row, "output": "good" if number < good else "bad", "prompt": "long " * 300 + str(number)})
    (folder / "samples" / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_commands(
    serve: Callable[[Opinion], Endpoint], tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_answers(tmp_path / "base", 2), write_answers(tmp_path / "tuned", 10)
    two = [str(a), str(b), "--store", store.url]

    def opinion(prompt: str) -> str:
        if "[Answer]" in prompt:
            return "Grade: 5" if "good" in prompt else "Grade: 1"
        assert prompt.count("long") == 300  # the whole request
        first, second = answers_in(prompt)
        return f"Verdict: {'tie' if first == second else '1' if first == 'good' else '2'}"

    url = serve(opinion).url + "/v1"
    votes = tmp_path / "votes.jsonl"
    ask = ["judge", *two, "--url", url, "--model-name", "judge"]
    assert run_command([*ask, "--votes", str(votes)]) == 0
    out = capsys.readouterr().out
    assert "tuned won 8, base won 0, 4 ties of 12 documents" in out
    assert "tuned is better" in out
    assert "the same in both orders: 12 of 12" in out
    assert run_command([*ask, "--against", str(votes), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["against_agreement"], told["against_documents"], told["tally"]["b_wins"]) == (1.0, 12, 8)
    assert run_command([*ask, "--rubric"]) == 0
    assert "A 1.67, B 4.33" in capsys.readouterr().out
    assert run_command([*ask, "--rubric", "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["b_grade"] - told["a_grade"] == pytest.approx(told["difference"])
    # The sizes are those of a two-sided test of one mean at 5 % with a power of 80 %: (1.960 + 0.842) standard errors.
    graded = [0.0] * 4 + [4.0] * 8
    assert told["detectable"] == pytest.approx(2.8016 * np.std(graded, ddof=1) / np.sqrt(12), rel=1e-3)
    assert told["decides"] == max(2, math.ceil(12 * (told["detectable"] / told["difference"]) ** 2))
    assert run_command([*ask, "--votes", str(tmp_path / "no" / "votes.jsonl")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.json"
    assert run_command(["review", "export", *two, "--sheet", str(sheet), "--key", str(key), "--sample", "10"]) == 0
    assert "10 lines" in capsys.readouterr().out
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([{**row, VOTE: "1" if row["answer 1"] == "good" else "2"} for row in rows])
    assert run_command(["review", "import", str(sheet), "--key", str(key)]) == 0
    assert "votes: sheet.csv 10" in capsys.readouterr().out
    assert run_command(["review", "import", str(sheet), "--key", str(key), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["b"] == "tuned"
    assert run_command([*ask, "--suite", "none"]) == 2
    assert "no written answers in common" in capsys.readouterr().err
    assert run_command([*ask, "--against", str(sheet)]) == 2


def test_only_written_answers_are_judged(tmp_path: Path, store: Store) -> None:
    folder = write_evaluation(tmp_path / "a", {"arc_easy": {"arc_easy": coin(1, 5, 0.5)}})
    measured = load_measured(store, str(folder))
    with pytest.raises(UserError, match="no written answers"):
        answered_pairs(measured, measured)
