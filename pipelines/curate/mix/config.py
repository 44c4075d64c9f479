"""Recipe sections ``curate.mix`` and ``curate.licences``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel


class SourceMix(StrictModel):
    """How much of one source is wanted."""

    weight: float | None = Field(
        None,
        ge=0,
        description="how often its text is used: 1 as it is, 0.5 half of it, 2 twice; by default its weight in corpus",
    )
    max_documents: int | None = Field(None, ge=0, description="at most so many documents, repeats included")
    max_bytes: int | None = Field(None, ge=0, description="at most so many bytes of text (UTF-8), repeats included")
    max_repeats: int | None = Field(None, ge=1, description="the limit of repetition for this source")


class MixConfig(StrictModel):
    """What share of the training split each source has; the validation split is never mixed.

    Source i has p_i ∝ (weight_i x bytes_i)^(1/temperature) of sum(weight_i x bytes_i) bytes; then limits and caps
    apply. What they take away is not given to other sources.
    """

    sources: dict[str, SourceMix] = Field(default_factory=dict, description="a source's name -> how much of it")
    temperature: float = Field(
        1.0,
        gt=0,
        description="1 leaves shares as the weights say; above, small sources gain (Devlin et al. 2019: 1.43, "
        "Xue et al. 2021: 3.3)",
    )
    max_repeats: int = Field(
        4,
        ge=1,
        description="the most times that a document is used; text repeated up to 4 times is worth about as much as "
        "new text (Muennighoff et al. 2023, arXiv:2305.16264)",
    )
    seed: int = Field(0, ge=0, description="seed of the choice of documents where a source is used in part")

    def of(self, source: str) -> SourceMix:
        """What is said of a source; nothing, if it is not named."""
        return self.sources.get(source) or SourceMix.model_validate({})

    @property
    def does_nothing(self) -> bool:
        """Whether every document would be used exactly once, whatever the corpus holds."""
        plain = {"weight": (None, 1.0), "max_documents": (None,), "max_bytes": (None,)}
        return self.temperature == 1 and all(
            getattr(each, name) in values for each in self.sources.values() for name, values in plain.items()
        )


class LicenceConfig(StrictModel):
    """Which licences a published corpus may hold, as SPDX identifiers; case does not matter.

    A licence that is not known is refused as well. Of ``A OR B`` one has to be allowed, of ``A AND B`` both.
    ``A WITH x`` is allowed where it or A is.
    """

    allow: list[str] | None = Field(None, min_length=1, description="only these licences; null: any that is not denied")
    deny: list[str] = Field(default_factory=list, description="never these licences")
    accept_unknown: bool = Field(False, description="publish documents whose licence is not known")
    on_refusal: Literal["refuse", "drop"] = Field(
        "refuse",
        description="refuse: publish nothing and name the sources; drop: leave such documents out, counted as licence",
    )

    @model_validator(mode="after")
    def _differ(self) -> LicenceConfig:
        both = sorted({name.lower() for name in self.allow or ()} & {name.lower() for name in self.deny})
        if both:
            raise ValueError(f"{both[0]} is both allowed and denied")
        if self.allow is None and not self.deny:
            raise ValueError("give allow or deny, or leave licences out")
        return self
