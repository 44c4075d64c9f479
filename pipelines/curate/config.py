"""Recipe section ``curate``: which steps run, and every threshold with the paper that published it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cluster.config import StrictModel, execution
from cluster.stage import Stage
from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.classifier.config import ClassifierConfig, identity_of
from pipelines.curate.decontaminate.config import DecontaminateConfig
from pipelines.curate.mix.config import LicenceConfig, MixConfig
from pipelines.curate.normalise import NormaliseConfig
from pipelines.curate.own_filters.config import FilterConfig
from pipelines.curate.redaction.config import RedactConfig

QualityRules = Literal["gopher", "c4", "fineweb"]
QUALITY: tuple[QualityRules, ...] = ("c4", "gopher")


class GopherQualityConfig(StrictModel):
    """Document quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1); null switches one off.

    All thresholds are the published ones; with the last two fields on, decisions are datatrove's.
    """

    min_words: int | None = Field(50, ge=0, description="Gopher A.1.1: fewest words that are more than symbols")
    max_words: int | None = Field(100_000, ge=1, description="Gopher A.1.1: most words that are more than symbols")
    min_mean_word_length: float | None = Field(3.0, ge=0, description="Gopher A.1.1: shortest mean word, in characters")
    max_mean_word_length: float | None = Field(10.0, ge=0, description="Gopher A.1.1: longest mean word, in characters")
    max_symbol_ratio: float | None = Field(
        0.1, ge=0, description="Gopher A.1.1: most hash signs, and most ellipses, for each word"
    )
    max_bullet_lines: float | None = Field(0.9, ge=0, le=1, description="Gopher A.1.1: share of lines with a bullet")
    max_ellipsis_lines: float | None = Field(
        0.3, ge=0, le=1, description="Gopher A.1.1: share of lines that end with an ellipsis"
    )
    min_alphabetic_words: float | None = Field(
        0.8, ge=0, le=1, description="Gopher A.1.1: share of words with at least one letter"
    )
    min_stop_words: int | None = Field(
        2, ge=0, description="Gopher A.1.1: how many of the, be, to, of, and, that, have, with there must be"
    )
    count_heading_marks: bool = Field(
        False,
        description="count the # of Markdown headings as symbols too, as datatrove; the paper judged plain web text",
    )
    symbols_are_words: bool = Field(
        False,
        description="in Gopher's shares, count brackets, commas and other symbols as words, as datatrove does; off, "
        "since more than half of documented modules break min_alphabetic_words with it",
    )


class GopherRepetitionConfig(StrictModel):
    """Repetition rules of Gopher (arXiv:2112.11446, appendix A.1.1, table A1); null switches one off.

    All but the first two are shares of the document's characters. All thresholds are the published ones; with the last
    two fields on, decisions are datatrove's.
    """

    max_duplicate_lines: float | None = Field(0.30, ge=0, le=1, description="Gopher table A1: repeated lines")
    max_duplicate_paragraphs: float | None = Field(0.30, ge=0, le=1, description="Gopher table A1: repeated paragraphs")
    max_duplicate_line_characters: float | None = Field(
        0.20, ge=0, le=1, description="Gopher table A1: characters in repeated lines"
    )
    max_duplicate_paragraph_characters: float | None = Field(
        0.20, ge=0, le=1, description="Gopher table A1: characters in repeated paragraphs"
    )
    max_top_ngram: dict[int, float] = Field(
        default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16},
        description="Gopher table A1: words in the n-gram -> characters in the most frequent one",
    )
    count_single_ngrams: bool = Field(
        False,
        description="for Gopher's most frequent n-gram, take one that occurs once too, as datatrove does; off, since "
        "in a short text a single occurrence is already a large share, and nothing is repeated",
    )
    symbols_are_words: bool = Field(
        False,
        description="count symbols as words of Gopher's n-grams, as datatrove does; off, since rulers, table borders "
        "and prompts are layout, not repeated speech",
    )
    max_duplicate_ngrams: dict[int, float] = Field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        description="Gopher table A1: words in the n-gram -> characters in repeated ones",
    )


class C4Config(StrictModel):
    """Rules of C4 (Raffel et al. 2020, JMLR 21:140, section 2.2).

    C4 judged web pages line by line. Lines that fail a line rule are removed; those rules that would take headings,
    code and blank lines out of documentation are off by default. FineWeb (arXiv:2406.17557) ran all of them but
    ``terminal_punctuation``. README.md has the settings that give datatrove's decisions and texts exactly.
    """

    min_sentences: int | None = Field(5, ge=0, description="C4: fewest sentences in what is left of the document")
    lorem_ipsum: bool = Field(True, description="C4: drop documents with the phrase lorem ipsum")
    curly_bracket: bool = Field(False, description="C4: drop documents with a {; off, since documentation shows code")
    terminal_punctuation: bool = Field(
        False, description="C4: remove lines that do not end with . ! ? or a quotation mark; off, as in FineWeb"
    )
    min_words_in_line: int | None = Field(
        None, ge=1, description="C4: remove lines with fewer words (published: 3); off, since headings are short"
    )
    max_word_characters: int | None = Field(1000, ge=1, description="C4's code: remove lines with a longer word")
    javascript: bool = Field(False, description="C4: remove lines that mention Javascript; off, since manuals may")
    policy: bool = Field(True, description="C4: remove lines about cookies, terms of use and privacy policies")
    citations: bool = Field(
        False,
        description="C4's code: take [1], [edit] and [citation needed] out of lines; off, since code has such indices",
    )
    keep_layout: bool = Field(
        True,
        description="keep the indentation of lines, and blank lines unless a rule removes them; C4's code strips every "
        "line",
    )


class FineWebConfig(StrictModel):
    """Rules of FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6); null switches one off.

    All defaults are the published ones; decisions are datatrove's.
    """

    min_punctuated_lines: float | None = Field(
        0.12, ge=0, le=1, description="FineWeb 3.6: least share of lines that end with terminal punctuation"
    )
    max_short_lines: float | None = Field(0.67, ge=0, le=1, description="FineWeb 3.6: most short lines, as a share")
    short_line_characters: int = Field(30, ge=0, description="FineWeb 3.6: a line of so many characters is short")
    max_duplicate_line_characters: float | None = Field(
        0.01,
        ge=0,
        le=1,
        description="FineWeb's code (section 3.6 says 0.1): most characters in repeated lines, as a share",
    )
    max_line_ends: float | None = Field(0.3, ge=0, description="FineWeb's code: most line ends for each word")


class MinHashConfig(StrictModel):
    """Near-duplicate detection by MinHash and locality-sensitive hashing (Broder 1997; Lee et al. 2022).

    Two documents meet if all hashes of one band are equal, with probability 1 - (1 - s^rows)^bands at similarity s.
    """

    ngram: int = Field(5, ge=1, le=50, description="words in a shingle (FineWeb: 5)")
    bands: int = Field(14, ge=1, le=256, description="bands of the signature (FineWeb: 14)")
    rows: int = Field(8, ge=1, le=64, description="hashes in a band (FineWeb: 8)")
    seed: int = Field(1, ge=0, lt=1 << 32, description="seed of the hash functions")
    words: Literal["reference", "fast"] = Field(
        "reference",
        description="reference cuts words as datatrove does (spaCy's English rules), so that decisions are the same; "
        "fast cuts at blanks only",
    )


class RepeatedTextConfig(StrictModel):
    """Removal of passages that were seen before in the corpus, by 64-bit hashes (as in CCNet, arXiv:1911.00359).

    Of equal passages the one in the document with the smallest id stays, within that the first.
    """

    unit: Literal["line", "paragraph"] = Field(
        "paragraph", description="what is compared: lines, or paragraphs (set apart by blank lines)"
    )
    min_characters: int = Field(
        100, ge=1, description="shorter passages always stay, so that headings and short answers are not torn out"
    )


class DedupConfig(StrictModel):
    """Which duplicates are removed. Of each group one document stays, of equally good ones that of the smallest id."""

    exact: bool = Field(True, description="remove documents with the same words in the same order")
    minhash: MinHashConfig | None = Field(
        default_factory=lambda: MinHashConfig.model_validate({}),
        description="remove near-duplicates; null switches it off",
    )
    keep: Literal["longest", "first", "best_score"] = Field(
        "longest",
        description="which of a group stays: the longest text, the first in the corpus (sources in the recipe's "
        "order), or the one with the greatest score",
    )
    score: str = Field(
        "quality_score",
        min_length=1,
        description="for keep: best_score, the column or metadata field with the score; a document without one is last",
    )
    against: list[str] = Field(
        default_factory=list,
        description="corpora curated earlier, by artifact id: what is a duplicate of a document there goes",
    )
    repeated_text: RepeatedTextConfig | None = Field(
        None, description="remove repeated lines or paragraphs from the documents that stay; off by default"
    )
    memory_bytes: int = execution(
        32 << 20, ge=4096, description="records that one worker holds at once; it needs about seven times as much"
    )


class CurateConfig(StrictModel):
    """Recipe section ``curate``; the steps run in the order of the fields."""

    normalise: NormaliseConfig | None = Field(
        default_factory=lambda: NormaliseConfig.model_validate({}),
        description="repair mojibake, Unicode NFC, line ends, stray control characters and blanks; lines are kept; "
        "true, false, or settings",
    )
    language: list[str] | dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda: ["en"],
        description="languages to keep (ISO 639 codes), or each with its least probability, as in {en: 0.65, de: 0.5}; "
        "an empty list keeps all",
    )
    language_min_confidence: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least probability of the languages of a plain list, as py3langid calibrates it (FineWeb, "
        "arXiv:2406.17557, asks another model for 0.65)",
    )
    repetition: Literal["gopher"] | None = Field("gopher", description="repetition rules, or null")
    quality: list[QualityRules] = Field(
        default_factory=lambda: [*QUALITY],
        description="sets of quality rules, from gopher, c4 and fineweb; always applied in that order. fineweb is made "
        "for web pages: documentation with lists and code breaks it",
    )
    gopher_repetition: GopherRepetitionConfig = Field(
        default_factory=lambda: GopherRepetitionConfig.model_validate({}),
        description="thresholds for repetition: gopher",
    )
    gopher_quality: GopherQualityConfig = Field(
        default_factory=lambda: GopherQualityConfig.model_validate({}), description="thresholds for quality: gopher"
    )
    c4: C4Config = Field(default_factory=lambda: C4Config.model_validate({}), description="rules for quality: c4")
    fineweb: FineWebConfig = Field(
        default_factory=lambda: FineWebConfig.model_validate({}), description="thresholds for quality: fineweb"
    )
    words: Literal["reference", "fast"] = Field(
        "reference",
        description="how repetition and quality rules split words: reference as datatrove does for English, with "
        "spaCy's tokenizer; fast by the kinds of characters, for every language with blanks",
    )
    classifier: ClassifierConfig | None = Field(
        None, description="a quality classifier that learns from your examples, of good and of bad documents"
    )
    redact: RedactConfig = Field(
        default_factory=lambda: RedactConfig.model_validate({}),
        description="personal data and secrets replaced by <EMAIL>, <IP>, <PHONE>, …: a list of types, or types with "
        "settings",
    )
    dedup: DedupConfig = Field(
        default_factory=lambda: DedupConfig.model_validate({}), description="exact and near-duplicate removal"
    )
    filters: list[FilterConfig] = Field(
        default_factory=list, description="your own filters, each a module:function, after the quality rules"
    )
    audit: AuditConfig | None = Field(None, description="bias and toxicity statistics; {} or true switches them on")
    licences: LicenceConfig | None = Field(None, description="which licences may be published; null: any")
    decontaminate: DecontaminateConfig | None = Field(
        None, description="find the evals section's questions; {} or true switches it on"
    )
    mix: MixConfig = Field(
        default_factory=lambda: MixConfig.model_validate({}), description="shares of the sources in the training split"
    )
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of documents held out, chosen by a stable hash of their words"
    )
    keep_measured: bool = execution(
        True,
        description="keep the cleaned texts and signatures of all that passes the rules beside the corpus, so that a "
        "run with other thresholds measures nothing again; takes about as much room again",
    )
    workers: int | None = execution(
        None, ge=1, description="parallel workers; by default one for each core that Ray really has"
    )

    @field_validator("normalise", "audit", "decontaminate", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @field_validator("quality")
    @classmethod
    def _in_order(cls, values: list[str]) -> list[str]:
        return [name for name in ("gopher", "c4", "fineweb") if name in values]

    @field_validator("language")
    @classmethod
    def _no_repeats(cls, values: list[str] | dict[str, float]) -> list[str] | dict[str, float]:
        return dict(sorted(values.items())) if isinstance(values, dict) else sorted(set(values))

    def least_confidence(self, language: str) -> float | None:
        """How probable a language must be for its documents to stay; None if it is not asked for."""
        if isinstance(self.language, dict):
            return self.language.get(language)
        return self.language_min_confidence if language in self.language else None


STAGE = Stage(
    name="curate",
    kind="Corpus",
    version=3,
    entry="pipelines.curate.stage:run",
    resolve="pipelines.curate.config:resolve",
    check="pipelines.curate.stage:check",
)


def resolve(config: CurateConfig) -> dict[str, Any]:
    """Identity fields without the thresholds of rules that are switched off: they change nothing.

    Raises:
        UserError: the classifier's examples are not there.
    """
    unused = {
        "language_min_confidence": not config.language or isinstance(config.language, dict),
        "gopher_repetition": config.repetition is None,
        "gopher_quality": "gopher" not in config.quality,
        "c4": "c4" not in config.quality,
        "fineweb": "fineweb" not in config.quality,
        "words": config.repetition is None and not config.quality,
    }
    learned = {"classifier": identity_of(config.classifier)} if config.classifier is not None else {}
    return {name: None for name, off in unused.items() if off} | learned
