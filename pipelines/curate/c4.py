"""C4's rules (Raffel et al. 2020, JMLR 21:140, section 2.2): lines are removed, then the document is judged."""

from __future__ import annotations

import re

from pipelines.curate.config import C4Config

_TERMINAL = (".", "!", "?", '"', "'", "”")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+\S)")


def apply_c4(text: str, rules: C4Config) -> tuple[str, str | None]:
    """The text without the lines that C4 removes, and the rule that the document as a whole breaks, or None."""
    lowered = text.lower()
    if rules.lorem_ipsum and "lorem ipsum" in lowered:
        return text, "c4.lorem_ipsum"
    if rules.curly_bracket and "{" in text:
        return text, "c4.curly_bracket"
    kept = [line for line in text.split("\n") if not _is_removed(line, rules)]
    if rules.min_sentences is not None and not _has_sentences(kept, rules.min_sentences):
        return text, "c4.min_sentences"
    return "\n".join(kept), None


def _is_removed(line: str, rules: C4Config) -> bool:
    stripped = line.strip()
    if not stripped:
        # Blank lines carry the structure of what stays; under C4's own line rules nothing of it is left to carry.
        return rules.terminal_punctuation or rules.min_words_in_line is not None
    if rules.terminal_punctuation and (not stripped.endswith(_TERMINAL) or stripped.endswith("...")):
        return True
    if rules.min_words_in_line is not None and len(stripped.split()) < rules.min_words_in_line:
        return True
    longest = rules.max_word_characters
    if longest is not None and len(stripped) > longest and max(map(len, stripped.split())) > longest:
        return True
    lowered = stripped.lower()
    if rules.javascript and "javascript" in lowered:
        return True
    return rules.policy and any(phrase in lowered for phrase in _POLICY)


def _has_sentences(lines: list[str], fewest: int) -> bool:
    """Whether there are that many sentences; a line holds at least one. Counting stops as soon as there are."""
    count = 0
    for line in lines:
        stripped = line.strip()
        if stripped:
            count += 1 + len(_SENTENCE_END.findall(stripped))
            if count >= fewest:
                return True
    return count >= fewest
