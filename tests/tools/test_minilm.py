"""MiniLM with its real weights: loaded, and quantized dynamically."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.backends import resolve_backend
from tools import minilm

pytestmark = pytest.mark.skipif(
    bool(minilm.missing()), reason=f"not installed: {', '.join(minilm.missing())}"
)


@torch.no_grad()
def embeddings(model: nn.Module, sentences: list[str]) -> Tensor:
    return torch.cat([model(*minilm.tokenize([sentence])) for sentence in sentences])


def test_sentences_are_real_and_distinct() -> None:
    sentences = minilm.sentences(200)
    assert len(set(sentences)) == 200
    assert "The current code generator emits no code" in sentences[0]


@pytest.mark.slow
def test_embeddings_stay_near_and_weights_a_third() -> None:
    """`make demo` shows the same for 200 sentences."""
    model, sentences = minilm.load(), minilm.sentences(25)
    meanings = ["A cat sits.", "A kitten is sitting.", "Sum the integers."]
    cat, near, far = embeddings(model, meanings)
    assert F.cosine_similarity(cat, near, 0) > 0.6 > F.cosine_similarity(cat, far, 0)
    qmodel = qfx.quantize(model, minilm.tokenize(sentences[:4]), method="dynamic", backend="x86")
    similar = F.cosine_similarity(embeddings(model, sentences), embeddings(qmodel, sentences), -1)
    distance = 0.01  # goes with the square of the error, which a bit less doubles
    assert similar.mean() > 1 - distance * (4 if resolve_backend("x86").saturates else 1)
    assert qmodel.report.coverage is not None
    assert qmodel.report.coverage > 0.95
    linear = [p for p in qmodel.reference.state_dict() if p.startswith("layers.") and "_q" in p]
    assert len(linear) == 36
