"""Documents packed into one block: with isolate_documents each is computed as if it stood alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.models.build import build_model
from pipelines.models.config import ModelConfig
from pipelines.tokens.marks import Marks
from pipelines.tokens.packing import Packer, TokenBlocks
from pipelines.train.blocks import BlockSamples
from pipelines.train.masked import MaskedSamples

MARKS = Marks(0, 1, 2, 3, (), frozenset(range(4)))
LENGTH = 24


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> TokenBlocks:
    folder = tmp_path_factory.mktemp("blocks")
    draw = np.random.default_rng(2)
    packer = Packer(folder, vocab_size=100, bos_id=0, eos_id=1, pad_id=2)
    for number, length in enumerate((3, 0, 7, 40, 1, 9, 12)):
        packer.add(f"d{number}", np.array([0, *draw.integers(4, 100, length), 1]))
    packer.finish(LENGTH)
    return TokenBlocks(folder)


def test_positions_and_documents_against_the_stream(blocks: TokenBlocks) -> None:
    everything = np.arange(len(blocks))
    documents, positions = blocks.documents(everything), blocks.positions(everything)
    for block in everything:
        tokens = blocks.read(everything)[block]
        count = int(blocks.lengths(everything)[block])
        for place in range(1, count):
            begins = tokens[place] == 0
            assert positions[block, place] == (0 if begins else positions[block, place - 1] + 1)
            assert documents[block, place] == documents[block, place - 1] + begins
        assert positions[block, 0] == 0
    assert blocks.lengths(everything).sum() == blocks.index.tokens
    assert (documents[-1, blocks.lengths(everything)[-1] :] == blocks.index.documents).all()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_each_document_is_computed_as_if_alone(blocks: TokenBlocks, architecture: str) -> None:
    torch.manual_seed(1)
    config = ModelConfig(architecture=architecture, hidden=64, heads=2, kv_heads=2 if architecture == "llama" else None)
    model: Any = build_model(config, vocab_size=100, max_positions=LENGTH, bos_id=0, eos_id=1, pad_id=2).eval()
    kind = (
        MaskedSamples(blocks, MARKS, 1, isolate=True) if architecture == "bert" else BlockSamples(blocks, isolate=True)
    )
    everything = np.arange(len(blocks))
    batch = kind.batch(everything)
    documents = blocks.documents(everything)
    with torch.no_grad():
        packed = model(input_ids=batch.inputs, use_cache=False, **batch.arguments).logits
        mixed = model(input_ids=batch.inputs, use_cache=False).logits
        different = 0.0
        for block in everything:
            for document in np.unique(documents[block, : blocks.lengths(everything)[block]]):
                there = torch.from_numpy(documents[block] == document)
                alone = model(input_ids=batch.inputs[block][there][None], use_cache=False).logits[0]
                assert torch.allclose(packed[block][there], alone, atol=1e-5)
                different = max(different, float((mixed[block][there] - alone).abs().max()))
    assert different > 1e-3  # without it documents do see each other: the comparison can fail
