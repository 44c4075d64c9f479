"""People as judges: a sheet that hides which model wrote what, and the votes read back from it.

The sheet is a CSV file for any spreadsheet. Which side is whose is drawn for each line and stands in a key file, which
reviewers do not get.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from evals.decide.judge import Pairs
from evals.decide.reading import Key
from evals.decide.votes import Choice, LengthBias, Tally, krippendorff_alpha, length_bias, majority, tally

COLUMNS = ("line", "request", "answer 1", "answer 2", "vote (1, 2 or tie)", "remark")
VOTE = COLUMNS[4]


@dataclass(frozen=True)
class ReviewResult:
    """What people said.

    Attributes:
        votes: by document, the majority's.
        by: reviewer (sheet) -> how many lines have a vote.
        agreement: Krippendorff's alpha; None with one reviewer.
        first_share: how often the answer on the left was preferred.
    """

    votes: dict[Key, Choice]
    tally: Tally
    by: dict[str, int]
    agreement: float | None
    first_share: float | None
    length: LengthBias


def export_sheet(pairs: Pairs, sheet: Path, key: Path, names: tuple[str, str], count: int | None, seed: int) -> int:
    """Write the sheet and its key; the number of lines.

    Args:
        count: so many documents, drawn at random; all by default.
    """
    chance = random.Random(f"review\0{seed}")
    chosen = list(pairs)
    if count is not None and count < len(chosen):
        chosen = chance.sample(chosen, count)
    rows, sides = [], []
    for number, place in enumerate(chosen, 1):
        a, b = pairs[place]
        swapped = chance.random() < 0.5
        first, second = (b, a) if swapped else (a, b)
        rows.append([number, a.prompt, first.chosen, second.chosen, "", ""])
        sides.append({"line": number, "key": list(place), "first": "b" if swapped else "a"}
                     | {"lengths": [len(a.chosen), len(b.chosen)]})  # fmt: skip
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:  # with a mark that tells spreadsheets it is UTF-8
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([[_safe(cell) for cell in row] for row in rows])
    content = {"names": list(names), "lines": sides, "sheet_sha256": _digest(rows)}
    key.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return len(rows)


def import_votes(sheets: Sequence[Path], key: Path) -> tuple[ReviewResult, tuple[str, str]]:
    """Read filled sheets, one a reviewer.

    Returns:
        the result, and the names of A and B.

    Raises:
        UserError: a sheet or the key cannot be read, they do not belong together, or a vote is none of 1, 2, tie.
    """
    try:
        content = json.loads(key.read_text(encoding="utf-8"))
        sides = {int(each["line"]): each for each in content["lines"]}
        expected, (a, b) = str(content["sheet_sha256"]), content["names"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"is no key of a sheet: {error}", where=str(key), next_step="name the file that export wrote"
        ) from None
    by_document: dict[Key, list[Choice]] = {}
    by: dict[str, int] = {}
    places = []
    for sheet in sheets:
        for number, vote in _votes_of(sheet, expected).items():
            side = sides[number]
            document: Key = (side["key"][0], side["key"][1], side["key"][2])
            by[sheet.name] = by.get(sheet.name, 0) + 1
            if vote != "tie":
                places.append(vote)
            by_document.setdefault(document, []).append(_choice(vote, side["first"]))
    if not by_document:
        raise UserError("there is not one vote", where=str(sheets[0]), next_step=f"fill the column {VOTE!r}")
    votes = {document: majority(said) for document, said in by_document.items()}
    lengths = {tuple(side["key"]): tuple(side["lengths"]) for side in sides.values()}
    return ReviewResult(
        votes,
        tally(votes.values()),
        by,
        krippendorff_alpha(by_document.values()),
        places.count("1") / len(places) if places else None,
        length_bias(votes, lengths),
    ), (a, b)


def _votes_of(sheet: Path, expected: str) -> Mapping[int, str]:
    try:
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(sheet), next_step="save it as CSV in UTF-8") from None
    if not rows or not set(COLUMNS[:5]) <= rows[0].keys():
        raise UserError("is not a sheet that export wrote", where=str(sheet), next_step="keep its first line as it is")
    try:
        content = [[int(row["line"]), row["request"], row["answer 1"], row["answer 2"], "", ""] for row in rows]
    except (ValueError, TypeError):
        content = []
    if _digest(sorted(content)) != expected:
        raise UserError(
            "its requests or answers are not those that were exported",
            where=str(sheet),
            next_step="fill in the votes and remarks only, or name the key that belongs to it",
        )
    found = {}
    for row in rows:
        vote = row[VOTE].strip().lower()
        if vote and vote not in ("1", "2", "tie"):
            raise UserError(f"line {row['line']}: {vote!r} is no vote", where=str(sheet), next_step="write 1, 2 or tie")
        if vote:
            found[int(row["line"])] = vote
    return found


def _choice(vote: str, first: str) -> Choice:
    if vote == "tie":
        return "tie"
    return "a" if (vote == "1") == (first == "a") else "b"


def _digest(rows: Sequence[Sequence[Any]]) -> str:
    """Over what a reviewer read, line ends and the spreadsheet's own guards aside."""
    plain = [[row[0], *(_plain(str(cell)) for cell in row[1:4])] for row in rows]
    return hashlib.sha256(json.dumps(plain).encode("utf-8")).hexdigest()


def _safe(cell: Any) -> Any:
    """A text that a spreadsheet will not run as a formula (it begins with one of =, +, -, @)."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell


def _plain(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@") else text
