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
        error: what the error says, for models that fail or refuse a size; "" for any.
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
        return self.names(row) and self.error in (row.error or row.refused)


_BRANCHES = "a branch that depends on the contents of a tensor: it is for regions"
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
    *_all(Trouble.FAILS, "flaubert xlm", _BRANCHES, "assert lengths.max().item() <= slen"),
    *_all(Trouble.FAILS, "led longformer", _BRANCHES, "if is_global_attn:"),
    *_all(Trouble.REFUSES, "dinov2 dinov2_with_registers", _INTERPOLATES, "a branch at"),
    *_all(Trouble.REFUSES, "mobilevit", "Python interpolates unless patches fit", "a branch at"),
    *_all(Trouble.REFUSES, "mamba mamba2 rwkv canine", _LOOPS, "an integer of Python at"),
    *_all(Trouble.REFUSES, "cpmant funnel", _LISTS, "an integer of Python at"),
    *_all(Trouble.COVERAGE, "funnel levit mamba squeezebert", _PRODUCTS),
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
)
