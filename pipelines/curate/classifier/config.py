"""Recipe section ``curate.classifier``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.config import StrictModel


class ClassifierConfig(StrictModel):
    """Logistic regression on word n-grams, as GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix A) chose web pages;
    DCLM (Li et al. 2024, arXiv:2406.11794, section 4.4) found one of this kind, on pairs of words, the best of those
    that it compared."""

    good: str = Field(
        description="folder, file or glob of examples worth training on: .txt and .md files are a document each, "
        ".jsonl lines have their text in `text`; compressed or not, also s3://"
    )
    bad: str = Field(description="the same of examples that are not")
    features: Literal["hashed", "tfidf"] = Field(
        "hashed", description="counts of hashed n-grams, or these weighted by inverse document frequency"
    )
    ngram: int = Field(2, ge=1, le=5, description="n-grams of one to so many words (DCLM: 2)")
    buckets: int = Field(262_144, ge=1024, le=16_777_216, description="numbers that n-grams are hashed to")
    regularisation: float = Field(1.0, gt=0, description="scikit-learn's C: smaller trusts single words less")
    threshold: float | None = Field(
        0.5, ge=0, le=1, description="least score, the probability of being good; null keeps all, with their scores"
    )
    characters: int = Field(20_000, ge=100, description="characters from the beginning of a document that are judged")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of the examples that only measures")


def identity_of(config: ClassifierConfig) -> dict[str, object]:
    """The settings with the content of the examples in place of where they are.

    Raises:
        UserError: a path is missing or holds no examples.
    """
    from pipelines.corpus.files import content_digest
    from pipelines.curate.classifier.examples import find_examples

    digests = {side: content_digest(find_examples(getattr(config, side))) for side in ("good", "bad")}
    return config.model_dump(mode="json", exclude={"good", "bad"}) | {f"{k}_sha256": v for k, v in digests.items()}
