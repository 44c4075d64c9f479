from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.cutting import cut_stream, cut_text
from pipelines.corpus.documents import clean_unicode

LINES = st.text(st.sampled_from("ab \n\n\t\x0bé€"), max_size=200)


@given(st.one_of(st.text(), LINES), st.integers(8, 200))
def test_cutting_loses_nothing_and_fits(text: str, limit: int) -> None:
    text = clean_unicode(text)
    pieces = list(cut_text(text, limit))
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= limit for piece in pieces)


@given(LINES, st.integers(8, 60), st.lists(st.integers(1, 40), max_size=20))
def test_where_a_stream_is_cut_does_not_depend_on_its_parts(text: str, limit: int, sizes: list[int]) -> None:
    parts = []
    rest = text
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    assert list(cut_stream([*parts, rest], limit)) == list(cut_stream([text], limit))


def test_text_is_cut_at_blank_lines() -> None:
    paragraphs = [f"paragraph {i} " + "x" * 20 + "\n\n" for i in range(6)]
    assert list(cut_text("".join(paragraphs), 80)) == ["".join(paragraphs[i : i + 2]) for i in (0, 2, 4)]
