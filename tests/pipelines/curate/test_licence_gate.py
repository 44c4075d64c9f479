from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from pipelines.curate.mix.config import LicenceConfig
from pipelines.curate.mix.licences import check_licences, refusal


def gate(**values: Any) -> LicenceConfig:
    return LicenceConfig.model_validate(values)


ALLOW = gate(allow=["MIT", "Apache-2.0", "CC-BY-4.0"])
DENY = gate(deny=["GPL-3.0-only", "CC-BY-NC-4.0"])


@pytest.mark.parametrize(
    ("licence", "reason"),
    [
        ("MIT", None),
        ("mit", None),
        ("GPL-3.0-only", "not allowed"),
        ("MIT OR GPL-3.0-only", None),
        ("GPL-3.0-only or MIT", None),
        ("MIT AND GPL-3.0-only", "not allowed"),
        ("MIT AND Apache-2.0", None),
        ("MIT, Apache-2.0", None),
        ("MIT, GPL-3.0-only", "not allowed"),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", None),
        ("MIT OR GPL-3.0-only AND GPL-2.0-only", None),
        ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", "not allowed"),
        ("Apache-2.0 WITH LLVM-exception", None),
        ("GPL-3.0-only WITH Classpath-exception-2.0", "not allowed"),
        ("CC-BY-NC-4.0", "not allowed"),
        ("unknown", "unknown"),
        ("", "unknown"),
        ("NOASSERTION", "unknown"),
        ("MIT OR unknown", None),
        ("MIT AND unknown", "unknown"),
        ("MIT OR", "not allowed"),
        ("(MIT", "not allowed"),
        ("MIT)", "not allowed"),
        ("MIT Apache-2.0", "not allowed"),
        ("the terms on our page (see below", "not allowed"),
    ],
)
def test_what_an_allow_list_says(licence: str, reason: str | None) -> None:
    assert refusal(licence, ALLOW) == reason


@pytest.mark.parametrize(
    ("licence", "reason"),
    [
        ("MIT", None),
        ("any other words", None),
        ("gpl-3.0-ONLY", "denied"),
        ("MIT OR GPL-3.0-only", None),
        ("CC-BY-NC-4.0 OR GPL-3.0-only", "denied"),
        ("MIT AND GPL-3.0-only", "denied"),
        ("unknown AND GPL-3.0-only", "denied"),
        ("GPL-3.0-only WITH GCC-exception-3.1", "denied"),
        ("unknown", "unknown"),
    ],
)
def test_what_a_deny_list_says(licence: str, reason: str | None) -> None:
    assert refusal(licence, DENY) == reason


def test_unknown_can_be_accepted() -> None:
    assert refusal("unknown", gate(allow=["MIT", "unknown"])) is None
    assert refusal("", gate(deny=["GPL-3.0-only"], accept_unknown=True)) is None


def test_an_exception_can_be_named() -> None:
    named = "GPL-2.0-only WITH Classpath-exception-2.0"
    assert refusal(named, gate(allow=[named])) is None
    assert refusal("GPL-2.0-only", gate(allow=[named])) == "not allowed"
    assert refusal(named, gate(deny=[named], allow=["GPL-2.0-only"])) == "denied"


NAMES = st.sampled_from(["MIT", "Apache-2.0", "GPL-3.0-only", "unknown"])
TREES = st.recursive(NAMES, lambda inner: st.tuples(st.sampled_from(["AND", "OR"]), inner, inner), max_leaves=8)


@given(tree=TREES)
def test_expressions_are_read_as_logic(tree: Any) -> None:
    def write(node: Any) -> str:
        return node if isinstance(node, str) else f"({write(node[1])} {node[0]} {write(node[2])})"

    def holds(node: Any) -> bool:
        if isinstance(node, str):
            return node in ("MIT", "Apache-2.0")
        return (all if node[0] == "AND" else any)([holds(node[1]), holds(node[2])])

    assert (refusal(write(tree), ALLOW) is None) == holds(tree)


def test_the_refusal_names_sources_and_counts() -> None:
    counts = {("web", "unknown"): 1200, ("books", "CC-BY-NC-4.0"): 7, ("docs", "MIT"): 9, ("gone", "GPL-3.0-only"): 0}
    with pytest.raises(UserError) as caught:
        check_licences(counts, ALLOW)
    text = str(caught.value)
    assert "web: 1,200 documents under unknown (unknown)\n  books: 7 documents under CC-BY-NC-4.0 (not allowed)" in text
    assert "docs" not in text
    assert "gone" not in text
    assert caught.value.exit_code == 2
    check_licences({("docs", "MIT"): 3}, ALLOW)
    check_licences(counts, None)


def test_a_gate_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match="mit is both allowed and denied"):
        gate(allow=["MIT"], deny=["mit"])
    with pytest.raises(ValueError, match="give allow or deny"):
        gate()
