"""Models that are not all right, each with the trouble and its reason.

An explanation is about one trouble: another one of the same model still counts as a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from tools.collection.row import Row, Trouble


@dataclass(frozen=True)
class Explanation:
    """Why models have a trouble.

    Attributes:
        trouble: which.
        pattern: of the keys of the models, as in "timm/eva*/static".
        reason: in a sentence.
        error: what is said of models that fail, run in regions or refuse a size; "" for any.
    """

    trouble: Trouble
    pattern: str
    reason: str
    error: str = ""

    def names(self, row: Row) -> bool:
        """Whether a model is one of those."""
        return fnmatch(row.key, self.pattern)

    def is_about(self, row: Row) -> bool:
        """Whether a model is one of those, and fails in this way if it does."""
        return self.names(row) and self.error in (row.error or row.regions or row.refused)


_BRANCHES = "a branch that depends on the contents of a tensor: it runs in regions"
_GATED = (
    "products of a gate and a value have long tails, and one range a tensor, in 7 bits where the "
    "CPU has no VNNI: 23 to 24 dB with 8 bits, and 23 to 28 dB of the float model with noise of "
    "40 dB in its weights"
)
_INTERPOLATES = (
    "Python decides by the size of the image whether position codes are interpolated: a graph "
    "captured at the own size does not"
)


_LOOPS = "Python loops over the tokens: a graph holds as many turns as were captured"
_LISTS = "Python makes a list as long as the sequence: a graph holds the captured one"
_PRODUCTS = (
    "products of two activations have no dynamic kernel, and at this size they are a larger share "
    "than in networks of full width"
)


_ATTENTION = (
    "products of two activations in attention have no integer kernel in the backend, and at this "
    "size and width they are a larger share than in large models"
)
_RECURRENT = "recurrent layers have dynamic kernels only, and these are static"
_SEVEN_BITS = "no operation stands out; in 7 bits where the CPU has no VNNI"
_EXPLODES = (
    "with random weights activations reach 1e10, and at one size 68 times what they are at the "
    "other: a range for both leaves one of them six bits less"
)


def _all(trouble: Trouble, names: str, reason: str, error: str = "") -> Iterator[Explanation]:
    """One reason for many architectures of transformers, each dynamic."""
    for name in names.split():
        yield Explanation(trouble, f"transformers/{name}/dynamic", reason, error)


def _static(library: str, trouble: Trouble, names: str, reason: str) -> Iterator[Explanation]:
    """One reason for many static networks of a library."""
    for name in names.split():
        yield Explanation(trouble, f"{library}/{name}/static", reason)


EXPLAINED: tuple[Explanation, ...] = (
    *_all(Trouble.REGIONS, "flaubert xlm led longformer", _BRANCHES, "depends on the contents"),
    *_all(
        Trouble.COVERAGE,
        "led longformer",
        f"attention in windows of 512 tokens, however few there are, and {_PRODUCTS}",
    ),
    *_all(
        Trouble.COVERAGE,
        "rwkv",
        "its first call divides weights in place, and the graph is of that one: float layers where "
        "it does. Quantized after a call of the float model, they are in integers",
    ),
    *_all(
        Trouble.REGIONS,
        "big_bird",
        "layers are made in forward where a sequence is short, and draw weights",
        "random numbers drawn",
    ),
    *_all(Trouble.REFUSES, "dinov2 dinov2_with_registers", _INTERPOLATES, "a branch at"),
    *_all(
        Trouble.REFUSES,
        "dinov3_vit",
        "Python keeps position codes in a table by the size of the image",
        "a key at",
    ),
    *_all(Trouble.REFUSES, "mobilevit", "Python interpolates unless patches fit", "a branch at"),
    *_all(Trouble.REFUSES, "mamba rwkv canine", _LOOPS, "an integer of Python at"),
    *_all(Trouble.REFUSES, "cpmant funnel", _LISTS, "an integer of Python at"),
    *_all(Trouble.COVERAGE, "levit mamba squeezebert", _PRODUCTS),
    *_all(Trouble.COVERAGE, "mamba2", f"tokens are padded to a chunk of 256, and {_PRODUCTS}"),
    *_all(Trouble.NOISY, "gemma glm helium llama mistral olmo phi3 qwen2 qwen3", _GATED),
    *_all(Trouble.NOISY, "smollm3 stablelm", _GATED),
    Explanation(
        Trouble.NOISY,
        "transformers/data2vec-audio/dynamic",
        "no operation stands out; convolutions and norms in a row, in 7 bits where the CPU has no "
        "VNNI: 19.6 dB with 8 bits, 22.4 dB of the float model with noise of 40 dB in its weights",
    ),
    Explanation(
        Trouble.NOISY,
        "transformers/granite/dynamic",
        "as in llama, in residual branches that are scaled up: 20.4 dB with 8 bits, and 18.6 dB of "
        "the float model with noise of 40 dB in its weights",
    ),
    Explanation(
        Trouble.NOISY,
        "transformers/mixtral/dynamic",
        "a router takes the experts with the largest scores, and a rounded score takes others: "
        "16.8 dB of the float model with noise of 40 dB in its weights",
    ),
    Explanation(
        Trouble.COVERAGE,
        "transformers/mixtral/dynamic",
        "the experts are two products of groups of rows, torch's _grouped_mm, which is not in the "
        "vocabulary: float, and not counted; of the rest, attention has no dynamic kernel",
    ),
    Explanation(
        Trouble.NOISY,
        "transformers/bit/dynamic",
        "fifty layers of random weights amplify: 6.4 dB of the float model with noise of 40 dB in "
        "its weights, 26 dB with noise of 60 dB in its image",
    ),
    Explanation(
        Trouble.NOISY,
        "transformers/cpmant/dynamic",
        "random weights amplify: 13.4 dB of the float model with noise of 40 dB in its weights",
    ),
    *_static(
        "timm",
        Trouble.COVERAGE,
        "cait_xxs24_224 convit_tiny crossvit_tiny_240 deepseek_vit_412m deit_tiny_patch16_224 "
        "gcvit_xxtiny gemma4_vit_167m halonet_h1 hiera_tiny_224 levit_128s maxvit_pico_rw_256 "
        "mvitv2_tiny nest_tiny pit_ti_224 sam2_hiera_tiny swin_s3_tiny_224 tiny_vit_5m_224 "
        "tnt_s_patch16_224 visformer_tiny vit_relpos_small_patch16_224 vit_tiny_patch16_224 "
        "vit_tiny_patch16_dinov3_qkvb vitamin_small_224 volo_d1_224",
        _ATTENTION,
    ),
    *_static("timm", Trouble.COVERAGE, "sequencer2d_s", _RECURRENT),
    *_static("timm", Trouble.NOISY, "inception_v3", _EXPLODES),
    *_static("torchvision", Trouble.NOISY, "inception_v3", _EXPLODES),
    *_static(
        "timm",
        Trouble.NOISY,
        "csatv2 davit_tiny efficientvim_m1",
        f"{_SEVEN_BITS}: over 20 dB with 8",
    ),
    *_static(
        "timm",
        Trouble.NOISY,
        "mobilenetv2_035",
        f"{_SEVEN_BITS}: 19.4 dB with 8, and 17.9 dB of the float model with noise of 40 dB in its "
        "weights",
    ),
    *_static(
        "timm",
        Trouble.NOISY,
        "fastvit_t8",
        "blocks as they are trained: three branches, each rounded before they are added, in a "
        "trunk without norms; 13.6 dB with 8 bits too",
    ),
    *_static(
        "timm",
        Trouble.NOISY,
        "gemma4_vit_167m mobilenetv5_300m visformer_tiny",
        "random weights amplify: 7, 19 and 14 dB of the float model with noise of 40 dB in its "
        "weights",
    ),
    *_static(
        "torchvision",
        Trouble.NOISY,
        "swin_v2_b swin_v2_s swin_v2_t",
        "attention by cosines over random weights amplifies: 17 to 21 dB of the float model with "
        "noise of 40 dB in its weights",
    ),
    Explanation(
        Trouble.SLOW,
        "transformers/swin2sr/dynamic",
        "the float model takes 8 s for these images: quantizing is a dozen runs",
    ),
    *_all(Trouble.COVERAGE, "swin2sr", _PRODUCTS),
    *_all(
        Trouble.NOISY,
        "swinv2",
        "random weights amplify: 13.6 dB of the float model with noise of 40 dB in its weights",
    ),
    Explanation(
        Trouble.KERNELS,
        "timm/maxvit_pico_rw_256/static",
        "in 7 bits without VNNI; its reference form agrees with itself to 31 dB if the image moves "
        "to the next floats, and the kernels with it to 27 to 28: 25.1 and 28.9 dB of the float "
        "model in one run, 27.1 and 26.5 in another",
    ),
    Explanation(
        Trouble.FAILS,
        "timm/deepseek_vit_412m/static",
        "412 million parameters at 546 pixels: a call of the float model takes a minute",
        "took over",
    ),
    *_static(
        "timm",
        Trouble.NOISY,
        "halonet_h1",
        "random weights amplify: 9.6 dB of the float model with noise of 40 dB in its weights, and "
        "66 dB between float32 and float64",
    ),
    *_static(
        "timm",
        Trouble.NOISY,
        "mobilevit_xxs",
        f"{_SEVEN_BITS}: 18.2 dB with 8, and 20.2 dB of the float model with noise of 40 dB in its "
        "weights",
    ),
    Explanation(Trouble.REFUSES, "transformers/mamba/static", _LOOPS, "an integer of Python at"),
    *_static("transformers", Trouble.COVERAGE, "mamba", _PRODUCTS),
    *_static("transformers", Trouble.NOISY, "wav2vec2", f"{_SEVEN_BITS}: 22.5 dB and more with 8"),
    *_static(
        "torchvision",
        Trouble.COVERAGE,
        "swin3d_b swin3d_s swin3d_t mvit_v1_b mvit_v2_s",
        "functions that torchvision hides from tracing (torch.fx.wrap): attention in windows, "
        "positions; and products of two activations have no integer kernel in the backend",
    ),
    *_static("torchvision", Trouble.NOISY, "mvit_v2_s", _SEVEN_BITS),
)
