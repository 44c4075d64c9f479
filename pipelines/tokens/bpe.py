"""Learn a byte-level BPE vocabulary, and write and read it as a Hugging Face tokenizer folder.

Byte-level BPE: Sennrich et al. 2016 (arXiv:1508.07909) over bytes as in Radford et al. 2019 (GPT-2), with single
digits as in Llama (arXiv:2302.13971, section 2.1). Decoding an encoded text gives the very same text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipelines.tokens.special import BOS, CHAT_TEMPLATE, EOS, PAD, SPECIAL_TOKENS


def learn_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """A tokenizer learned from texts; it depends on what they hold and not on their order.

    The alphabet is all 256 bytes, so that nothing is ever unknown. The result may have fewer tokens than
    ``vocab_size`` where the texts have fewer pairs that occur ``min_frequency`` times.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def write_folder(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` (with the chat template) for transformers and vLLM.

    The files are written directly, in transformers' own format: its writer would import torch.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token not in (BOS, EOS, PAD)],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def corpus_encoder(tokenizer_json: str) -> Tokenizer:
    """The tokenizer as it must read documents: a special token's name in a text is ordinary text."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
