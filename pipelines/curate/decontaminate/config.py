"""Recipe section ``curate.decontaminate``."""

from __future__ import annotations

from pydantic import Field, model_validator

from cluster.config import StrictModel


class DecontaminateConfig(StrictModel):
    """Search the corpus for the questions of the suites that ``evals`` names (Brown et al. 2020, arXiv:2005.14165).

    The defaults are those of GPT-3's appendix C, with whole documents removed; its rule to ignore n-grams of more than
    10 documents is left out, since a leaked benchmark is copied often too.
    """

    ngram: int = Field(13, ge=2, le=64, description="words in an n-gram (GPT-3 appendix C: 13)")
    min_words: int = Field(
        8,
        ge=1,
        description="a question with fewer words than ngram is looked for as a whole if it has so many "
        "(GPT-3 appendix C: 8); shorter ones are counted as unchecked",
    )
    min_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a question's n-grams that one document must hold; 0: any one (GPT-3 appendix C). "
        "PaLM (arXiv:2204.02311, section 8) asks for 0.7 with ngram 8",
    )
    max_questions: int | None = Field(
        10,
        ge=1,
        description="n-grams that more questions share are the task's wording and count for none; null: all count",
    )
    remove: bool = Field(True, description="take contaminated documents out; false only reports them")

    @model_validator(mode="after")
    def _in_order(self) -> DecontaminateConfig:
        if self.min_words > self.ngram:
            raise ValueError(f"min_words ({self.min_words}) is above ngram ({self.ngram}); lower it")
        return self
