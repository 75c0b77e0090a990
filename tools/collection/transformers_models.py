"""Architectures of transformers, with random weights and configurations that are made small.

Configurations differ in names, not in kind: whatever a configuration calls its width, its layers or
its heads, :data:`SMALL` sets it where it exists. What needs more says so in :data:`SPECIAL`;
hierarchical networks keep their own (smallest) sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tools.collection import images
from tools.collection.subject import Entry, Subject
from tools.collection.tokens import CALLS
from tools.networks import import_torchvision, randomise

import_torchvision()  # transformers does, and needs it whole

import transformers  # noqa: E402
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, BertModel  # noqa: E402

transformers.logging.set_verbosity_error()
_LOADED = BertModel  # what all of them load is loaded once, before processes are forked

WIDTH, INNER, LAYERS, HEADS, VOCABULARY, POSITIONS = 128, 512, 2, 4, 200, 128
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "emb_dim")
_LAYERS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("encoder_layers", "decoder_layers", "num_decoder_layers"),
)
_HEADS = (
    *("num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("encoder_attention_heads", "decoder_attention_heads"),
)
_INNER = (
    *("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"),
    *("hidden_dim", "n_inner", "ffn_dim"),
)
SMALL: dict[str, Any] = {
    **dict.fromkeys(_WIDTHS, WIDTH),
    **dict.fromkeys(_LAYERS, LAYERS),
    **dict.fromkeys(_HEADS, HEADS),
    **dict.fromkeys(_INNER, INNER),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), POSITIONS),
    **{"num_key_value_heads": 2, "head_dim": WIDTH // HEADS, "d_kv": WIDTH // HEADS},
    **{"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"initializer_range": WIDTH**-0.5, "use_cache": False},
    **{"image_size": 64, "patch_size": 16},
    **{"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 64},
    **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
}
"""Weights start with a gain of about one, so that no branch is too quiet to be heard."""


KEPT = object()
"""Stands for a setting that stays as the configuration has it."""


@dataclass(frozen=True)
class Architecture:
    """How a model type is made and called.

    Attributes:
        kind: "pixels", or one of :data:`tools.collection.tokens.CALLS`.
        settings: of the configuration, beyond those of :data:`SMALL`.
        keeps_sizes: take ``settings`` alone.
    """

    kind: str = "text"
    settings: Mapping[str, Any] = field(default_factory=dict)
    keeps_sizes: bool = False


def names(text: str) -> tuple[str, ...]:
    """Names between spaces."""
    return tuple(text.split())


_TEXT = names(
    """
    albert bert bert-generation big_bird biogpt bloom camembert canine cohere convbert cpmant
    ctrl deberta deberta-v2 distilbert electra ernie esm falcon flaubert fnet gemma gemma2
    gemma3_text glm gpt2 gpt_bigcode gpt_neox granite helium ibert layoutlm llama longformer
    mamba markuplm megatron-bert mistral mixtral mobilebert modernbert mpnet mpt mra nemotron
    nystromformer olmo olmo2 openai-gpt opt persimmon phi phi3 qwen2 qwen3 rembert roberta
    roberta-prelayernorm roc_bert roformer rwkv smollm3 splinter stablelm starcoder2 xglm xlm
    xlm-roberta yoso
    """
)
_SEQ2SEQ = names(
    """
    bart blenderbot led m2m_100 marian mbart mt5 mvp pegasus plbart t5 umt5
    """
)
_PIXELS = names(
    """
    beit clip_vision_model data2vec-vision deit dinov2 dinov2_with_registers dinov3_vit dpt
    ijepa siglip_vision_model vit vit_msn
    """
)
_HIERARCHICAL = names(
    """
    bit convnext convnextv2 cvt dinov3_convnext efficientnet focalnet glpn levit mobilenet_v1
    mobilenet_v2 mobilevit mobilevitv2 poolformer pvt_v2 regnet resnet segformer swiftformer
    swin2sr swinv2 textnet
    """
)
_WAVEFORM = names(
    """
    data2vec-audio hubert unispeech unispeech-sat wav2vec2 wav2vec2-conformer wavlm
    """
)
_CONVS = {"conv_dim": [32] * 7}

SPECIAL: dict[str, Architecture] = {
    "codegen": Architecture(settings={"rotary_dim": 16}),
    "funnel": Architecture(settings={"block_sizes": [1, 1], "num_hidden_layers": KEPT}),
    "gpt_neo": Architecture(settings={"attention_types": [[["global", "local"], 1]]}),
    "gptj": Architecture(settings={"rotary_dim": 16}),
    "lilt": Architecture(settings={"hidden_size": 192}),
    "mamba2": Architecture(settings={"num_heads": 8, "n_groups": 2, "state_size": 16}),
    "squeezebert": Architecture(settings={"embedding_size": WIDTH}),
    "videomae": Architecture("clips", {"num_frames": 4}),
    "vivit": Architecture("clips", {"num_frames": 4, "tubelet_size": [2, 16, 16]}),
    "timesformer": Architecture("clips", {"num_frames": 4}),
    "audio-spectrogram-transformer": Architecture("spectrogram", {"max_length": 64}),
    "whisper": Architecture("speech"),
    **{name: Architecture("waveform", _CONVS) for name in _WAVEFORM},
    **{name: Architecture("pixels", keeps_sizes=True) for name in _HIERARCHICAL},
    **{name: Architecture("pixels") for name in _PIXELS},
    **{name: Architecture("seq2seq") for name in _SEQ2SEQ},
    **{name: Architecture() for name in _TEXT},
}
STATIC = (
    *("albert", "bert", "distilbert", "electra", "gpt2", "mpnet", "opt", "roberta"),
    *("mamba", "segformer", "vit", "wav2vec2"),
)
"""Those that are quantized statically too."""


def entries() -> Iterator[Entry]:
    """Yield each architecture, dynamic, and some static too."""
    for name in sorted(SPECIAL):
        yield Entry("transformers", name, "dynamic", build)
    for name in STATIC:
        yield Entry("transformers", name, "static", build)


def build(name: str) -> Subject:
    """Create a model, and the calls of its kind."""
    architecture = SPECIAL[name]
    model = _model(name, architecture)
    if architecture.kind == "pixels":
        own, small = getattr(model.config, "image_size", None), SMALL["image_size"]
        return images.subject(model, (small, small + 32, *([own] if isinstance(own, int) else [])))
    calls = tuple(CALLS[architecture.kind](model))
    return Subject(model, calls, (calls[0].kwargs, calls[1].kwargs))


def _model(name: str, architecture: Architecture) -> nn.Module:
    own = CONFIG_MAPPING[name]()
    general = {} if architecture.keeps_sizes else SMALL
    fitting = {key: value for key, value in general.items() if _settable(own, key)}
    chosen = {**fitting, **architecture.settings}
    config = AutoConfig.for_model(name, **{k: v for k, v in chosen.items() if v is not KEPT})
    kind = MODEL_MAPPING[type(config)]
    torch.manual_seed(0)
    model: nn.Module = (kind[0] if isinstance(kind, tuple) else kind)(config).eval()
    randomise(model)
    return model


def _settable(config: object, key: str) -> bool:
    """Whether a configuration has this one, as one number, and takes another."""
    found = inspect.getattr_static(type(config), key, None)
    computed = isinstance(found, property) and found.fset is None
    return hasattr(config, key) and not computed and not isinstance(getattr(config, key), list)
