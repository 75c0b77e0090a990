"""The operators of PyTorch (``torch.ops.aten``) that operations are written with.

Most are written with the operator of their own name. ``docs/ops.md`` shows them, and a test exports
every operation.
"""

from __future__ import annotations

from collections.abc import Mapping

from qfx import vocab
from qfx.vocab import OpDef

_NAMED_OTHERWISE: Mapping[OpDef, str] = {
    vocab.SUB: "sub rsub",
    vocab.CAST: "to",
    vocab.CLAMP: "clamp hardtanh",
    vocab.LOGSIGMOID: "log_sigmoid",
    vocab.SOFTSIGN: "abs add div",
    vocab.TANHSHRINK: "tanh sub",
    vocab.ATTENTION: "scaled_dot_product_attention",
    vocab.ATTENTION_WEIGHTS: "mul mT matmul add softmax",
    vocab.ADDITIVE_MASK: "zeros masked_fill",
    vocab.RNN: "rnn_relu rnn_tanh",
    vocab.RNN_CELL: "rnn_relu_cell rnn_tanh_cell",
    vocab.LOCAL_RESPONSE_NORM: "mul view pad avg_pool3d squeeze add pow div",
    vocab.NORMALIZE: "linalg_vector_norm clamp_min expand_as div",
    vocab.VECTOR_NORM: "linalg_vector_norm",
    **dict.fromkeys((vocab.SORT, vocab.SORT_VALUES), "sort"),
    vocab.TOPK_VALUES: "topk",
    vocab.TAKE_ALONG_DIM: "take_along_dim gather",
    vocab.MATRIX_NORM: "linalg_matrix_norm linalg_vector_norm",
    vocab.OUTER: "outer mul view",
    **{op: f"pow avg_pool{op.dims}d sign abs relu mul" for op in vocab.LP_POOLS},
    vocab.PINV: "linalg_pinv",
    vocab.CHOLESKY: "linalg_cholesky_ex",
    vocab.EIGH: "_linalg_eigh",
    vocab.SLOGDET: "_linalg_slogdet",
    vocab.MAX_ALONG: "max",
    vocab.MIN_ALONG: "min",
    vocab.INV: "linalg_inv_ex",
    vocab.DET: "_linalg_det",
    vocab.SOLVE: "_linalg_solve_ex",
    vocab.QR: "linalg_qr",
    vocab.SVD: "_linalg_svd",
    vocab.CROSS_ENTROPY: "cross_entropy_loss",
    vocab.NLL_LOSS: "nll_loss_nd",
    vocab.KL_DIV: "kl_div mean sum div",
    vocab.INTERPOLATE: (
        "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d"
    ),
    vocab.GRID_SAMPLE: "grid_sampler",
    vocab.GETITEM: "slice select unsqueeze index",
    vocab.SPLIT: "split split_with_sizes",
    vocab.WINDOWS: "unfold",
    vocab.UNFOLD: "im2col",
    vocab.FOLD: "col2im",
    vocab.SETITEM: "clone select slice index fill_ copy_",
}
_NOTHING = (vocab.AFTER, vocab.DROPOUT, vocab.DETACH)
"""What computes nothing: an order among operations, and dropout in inference."""

_UNWRITTEN = (vocab.PACK_PADDED, vocab.PAD_PACKED)

_LIMITS: Mapping[OpDef, str] = {
    **dict.fromkeys(vocab.SEQUENCES, "packed sequences; a free batch, if quantized"),
    **dict.fromkeys(_UNWRITTEN, "all of it"),
    **dict.fromkeys((*vocab.CONVOLUTIONS, *vocab.TRANSPOSED), "weights in groups"),
}


def operators_of(op: OpDef) -> tuple[str, ...]:
    """Names of the operators that an operation is written with."""
    return (
        ()
        if op in _NOTHING or op in _UNWRITTEN
        else tuple(_NAMED_OTHERWISE.get(op, op.name).split())
    )


def limits_of(op: OpDef) -> str:
    """What programs can't say of an operation, or ""."""
    return _LIMITS.get(op, "")
