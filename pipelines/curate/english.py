"""spaCy's English word rules, loaded without the learning libraries that spaCy looks for and this does not use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer
    from spacy.vocab import Vocab

_NOT_NEEDED = ("torch", "tensorflow", "mxnet", "cupy")


def english_tokenizer() -> tuple[Tokenizer, Vocab]:
    """The tokenizer of ``spacy.blank("en")`` with its vocabulary, which is without word features.

    Those cost most of the time and decide nothing about where words are cut. Seconds and about 200 MB are saved where
    torch is installed, which spaCy would import.
    """
    with _hidden(_NOT_NEEDED):
        from spacy.lang.en import English
        from spacy.tokenizer import Tokenizer
        from spacy.vocab import Vocab
    whole: Any = English().tokenizer
    vocabulary = Vocab()
    tokenizer = Tokenizer(
        vocabulary,
        rules=whole.rules,
        prefix_search=whole.prefix_search,
        suffix_search=whole.suffix_search,
        infix_finditer=whole.infix_finditer,
        token_match=whole.token_match,
        url_match=whole.url_match,
    )
    return tokenizer, vocabulary


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Modules that are not loaded yet cannot be imported meanwhile: whoever can do without them does."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
