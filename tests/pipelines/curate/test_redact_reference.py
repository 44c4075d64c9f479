"""The rules ``addresses: reference`` against datatrove's PIIFormatter, which tests have and the product does not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.curate.redact import RedactConfig, Redactor

REDACT = Redactor(RedactConfig(types=("email", "ip"), addresses="reference"))


@pytest.fixture(scope="module")
def peer() -> Any:
    pii = pytest.importorskip("datatrove.pipeline.formatters.pii")
    return pii.PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IP>")


PIECES = [
    *"@..__-+é日0129aZ[]: \n/<>",
    *("a@b.c", "x.y@z.org", "@[1.2.3.4]", "@[1.2.3.ab:]", "8.8.8.8", "10.0.0.1", "256.1.1.1", "1.2.3", "..", "'", "--"),
    *("255.255.255.255", "01.02.03.004", "me@1.2.3.4", ".com", "@-x.y", "@x-.y"),
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("a@b.c_d@e.f")
@example("999.1.1.1.8.8.8.8")
@example("10.0.0.18.8.8.8")
@example("é.a@b.c")
@example("+a.b@c.d")
def test_decides_as_the_peer(peer: Any, text: str) -> None:
    assert REDACT(text)[0] == peer.format(text)


def test_decides_as_the_peer_on_long_random_texts(peer: Any) -> None:
    chance = random.Random(5)
    for _ in range(300):
        text = "".join(chance.choice(PIECES) for _ in range(200))
        assert REDACT(text)[0] == peer.format(text)
