"""Models that are quantized in regions: torchvision's detectors, and what generates.

    python -m benchmarks.in_place generation [NAME ...]
    python -m benchmarks.in_place detection [NAME ...]
    python -m benchmarks.in_place planning [MODULES ...]

The last prints how long it takes to find the regions of models of so many modules, each of which
branches on data. The others, a row for each model: regions, fraction of the multiply-accumulates of
layers, and of all there are, in integers, SQNR of the logits or boxes found again (by the quantized
model, and for comparison by the float model with noise of 1 % in its weights), tokens as in float
(and by how much float prefers its own where the first differs), what stays float, and what it
raised if it did.
Small configurations with random weights; dynamic for what generates, static for detectors.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import qfx
from qfx.capture.regions.plan import plan
from qfx.numerics.measures import sqnr
from qfx.table import table
from tools.networks import import_torchvision

_WORDS, _TOKENS = 100, 32
_NOISE = 0.01
_MODULES = 2000
"""In the models of which planning is timed."""

_DECODER = {
    "vocab_size": _WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "eos_token_id": None, "bos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 16}
_OF_GPT2 = {"vocab_size": _WORDS, "n_embd": 64, "n_layer": 2, "n_head": 4, "eos_token_id": None}
_EXPERTS = {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_BART = {
    "vocab_size": _WORDS, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "max_position_embeddings": 80, "decoder_start_token_id": 1,
    "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None, "forced_eos_token_id": None,
}  # fmt: skip
_T5 = {
    "vocab_size": _WORDS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "eos_token_id": None,
}  # fmt: skip

GENERATING: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", _GROUPED),
    "Qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "Qwen3": ("Qwen3ForCausalLM", _HEADS),
    "Mistral": ("MistralForCausalLM", _GROUPED),
    "Gemma2": ("Gemma2ForCausalLM", _HEADS),
    "Phi": ("PhiForCausalLM", _DECODER),
    "Phi3": ("Phi3ForCausalLM", _GROUPED),
    "GPT-2": ("GPT2LMHeadModel", _OF_GPT2),
    "GPT-NeoX": ("GPTNeoXForCausalLM", _DECODER),
    "OPT": ("OPTForCausalLM", {**_DECODER, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "Bloom": ("BloomForCausalLM", {**_DECODER, "n_layer": 2, "n_head": 4}),
    "Mixtral": ("MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4}),
    "Qwen3-MoE": ("Qwen3MoeForCausalLM", _EXPERTS),
    "Mamba": ("MambaForCausalLM", {**_DECODER, "state_size": 8}),
    "StableLM": ("StableLmForCausalLM", _GROUPED),
    "Cohere": ("CohereForCausalLM", _GROUPED),
    "T5": ("T5ForConditionalGeneration", _T5),
    "Bart": ("BartForConditionalGeneration", _BART),
    "Marian": ("MarianMTModel", _BART),
    "Pegasus": ("PegasusForConditionalGeneration", _BART),
    "mBART": ("MBartForConditionalGeneration", _BART),
}
_ENCODER_DECODER = ("T5", "Bart", "Marian", "Pegasus", "mBART")

DETECTORS = (
    "ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn",
)  # fmt: skip


class Row(NamedTuple):
    """A row of the table, as text."""

    name: str
    regions: str
    layers: str
    covered: str
    agrees: str
    note: str


@torch.no_grad()
def generating(name: str) -> Row:
    """Quantize a small model that generates, and compare it."""
    import transformers

    with suppress(ImportError):
        import_torchvision()  # transformers imports it, if it is there
    kind, config = GENERATING[name]
    torch.manual_seed(0)
    made: Any = getattr(transformers, kind)
    model = made(made.config_class(**config)).eval()
    ids = torch.randint(2, _WORDS, (1, 12))
    start = {"decoder_input_ids": ids[:, :4]} if name in _ENCODER_DECODER else {}
    quantized: Any = qfx.quantize(model, ids, example_kwargs=start, method="dynamic")
    logits = sqnr(model(ids, **start).logits, quantized(ids, **start).logits)
    expected, found = (_generated(each, ids) for each in (model, quantized))
    same = int((expected == found).cumprod(0).sum()) if len(expected) == len(found) else 0
    agrees = f"{logits:.1f} dB, {same} of {len(expected)} tokens"
    if same < len(expected):
        given = (ids,) if start else ()
        gap = _gap(model, quantized, given, expected[:same], found[same])
        agrees += f", then a gap of {gap:.1f} errors"
    covered = f"{quantized.report.coverage:.1%}"
    regions = str(len(quantized.regions))
    return Row(name, regions, _layers(quantized), covered, agrees, _fallen(quantized))


def _gap(
    model: Any, quantized: Any, given: tuple[Tensor, ...], before: Tensor, said: Tensor
) -> float:
    """How far float's logit of the word that was said lies below its best.

    In root mean square errors of the quantized logits: a tie where it is a few.
    """
    last = {"decoder_input_ids": before[None]} if given else {"input_ids": before[None]}
    floats, ours = (each(*given, **last).logits[0, -1] for each in (model, quantized))
    return float((floats.max() - floats[said]) / (floats - ours).square().mean().sqrt())


def _generated(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model.generate(ids, max_new_tokens=_TOKENS, do_sample=False)
    return found[0]


@torch.no_grad()
def detecting(name: str) -> Row:
    """Quantize a detector, and look for its boxes at two image sizes."""
    from benchmarks.detectors import SIZES, Fixture
    from benchmarks.fitting import with_noise
    from examples.detect import found_again

    made = Fixture(name)
    model, seen = made.model, [[scene.image for scene in each] for each in made.seen]
    others = [[scene.image for scene in each] for each in made.others]
    quantized: Any = qfx.quantize(
        model, (others[0],), calibration_data=[(each,) for each in others], progress=False
    )
    said, noisy = [], with_noise(model, 1, _NOISE)
    for size, images in zip(SIZES, seen, strict=True):
        expected = model(images)
        ours, theirs = (
            torch.cat([found_again(*pair) for pair in zip(expected, other(images), strict=True)])
            for other in (quantized, noisy)
        )
        found = f"{int(ours.sum())} of {len(ours)} at {size[0]}x{size[1]}"
        said.append(f"{found} (float with noise: {int(theirs.sum())})")
    report = quantized.report
    regions = str(len(quantized.regions))
    return Row(
        name, regions, _layers(quantized), f"{report.coverage:.1%}", "; ".join(said), _left(report)
    )


def _left(report: qfx.QuantizationReport) -> str:
    """Why what multiplies in float does, and how much of all that is."""
    total = sum(site.macs for site in report.sites)
    left: dict[str, int] = {}
    for site in report.sites:
        if site.decision == "float" and site.macs:
            left[f"{site.op}: {site.reason}"] = left.get(f"{site.op}: {site.reason}", 0) + site.macs
    return ", ".join(f"{what} {macs / total:.2%}" for what, macs in left.items())


def _layers(quantized: Any) -> str:
    """Fraction of the multiply-accumulates of layers with weights in integers."""
    layers = [s for s in quantized.report.sites if s.op in _LAYERS or s.reason == "outside-regions"]
    layers = [s for s in layers if s.node != "between regions"]
    total = sum(site.macs for site in layers)
    done = sum(site.macs for site in layers if site.decision == "quantized")
    return f"{done / total:.1%}" if total else ""


_LAYERS = ("Linear", "Conv1D", "Conv1d", "Conv2d", "linear", "addmm", "torch.nn.functional.linear")


def _fallen(quantized: nn.Module) -> str:
    said = [line for line in str(quantized.regions).splitlines() if "layer by layer" in line]
    return f"{len(said)} regions ran layer by layer" if said else ""


class _Branching(nn.Module):
    """A block that can't be captured, of two layers that can."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x).relu())
        return x + y if y.sum() > 0 else x - y


def planning(modules: int) -> None:
    """Time the plan of a chain of blocks, of three modules each."""
    torch.manual_seed(0)
    model = nn.Sequential(*(_Branching() for _ in range(modules // 3))).eval()
    begun, used = time.perf_counter(), time.process_time()
    found = plan(model, (torch.randn(4, 16),), {}, whole="it branches on data")
    took, used = time.perf_counter() - begun, time.process_time() - used
    count = sum(1 for _ in model.modules())
    print(f"{count} modules, {len(found.regions)} regions: {took:.1f} s, {used:.1f} s of CPU")


def main() -> None:
    """Print the table, a row as soon as it is known."""
    if sys.argv[1] == "planning":
        for modules in map(int, sys.argv[2:] or (_MODULES,)):
            planning(modules)
        return
    known: dict[str, tuple[Callable[[str], Row], tuple[str, ...]]] = {
        "generation": (generating, tuple(GENERATING)),
        "detection": (detecting, DETECTORS),
    }
    make, names = known[sys.argv[1]]
    rows: list[Row] = []
    for name in sys.argv[2:] or names:
        try:
            rows.append(make(name))
        except Exception as error:  # a row of the table
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            rows.append(Row(name, "", "", "", "", said))
        print(" | ".join(rows[-1]), flush=True)
    print(table(("model", "regions", "layers", "all", "agrees", "note"), rows))


if __name__ == "__main__":
    main()
