"""Learn a vocabulary over bytes, by byte-pair encoding or as a unigram model.

Both cut texts as in Radford et al. 2019 (GPT-2), with single digits as in Llama (arXiv:2302.13971, section 2.1), and
work on bytes: nothing is ever unknown, and decoding an encoded text gives the very same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipelines.tokens.special import BOS, SPECIAL_TOKENS


def learn_bpe(
    texts: Iterable[str], vocab_size: int, min_frequency: int, special: Sequence[str] = SPECIAL_TOKENS
) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909): it depends on what the texts hold, not on their order.

    The result may have fewer tokens than ``vocab_size`` where the texts have fewer pairs that occur
    ``min_frequency`` times.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    return _learn(Tokenizer(models.BPE()), trainer, texts)


def learn_unigram(texts: Iterable[str], vocab_size: int, special: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """A byte-level unigram model (Kudo 2018, arXiv:1804.10959).

    The library sums probabilities in the order of a hash map that differs between runs: two runs may differ in the
    last places of scores, and through them in a few rare tokens. What is published is one of them, for good.
    """
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    return _learn(Tokenizer(models.Unigram()), trainer, texts)


def _learn(tokenizer: Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer
