"""The functions and methods, beside the vocabulary, that a file may name: these and no others.

What is outside of qfx's vocabulary stays in a graph as it was written. A file names it by a word of
these tables; nothing is imported, and no attribute is looked up by what a file says. All of them
compute: none reads or writes files, runs text as code, or hands out memory that is not its own.
A name that the installed PyTorch lacks is no entry.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from qfx.torch_private import PAD_SEQUENCE

_TORCH = """
    abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint
    affine_grid_generator all allclose alpha_dropout amax amin aminmax angle any arange arccos
    arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere as_strided
    as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d baddbmm
    bartlett_window bernoulli bilinear bincount bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_shapes
    broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist ceil celu channel_shuffle
    cholesky cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min clip clone column_stack
    combinations complex concat concatenate conj conj_physical constant_pad_nd copysign corrcoef
    cos cosh cosine_similarity count_nonzero cov cross cummax cummin cumprod cumsum
    cumulative_trapezoid deg2rad det detach diag diag_embed diagflat diagonal diagonal_scatter
    diff digamma dist div divide dot dropout dsplit dstack einsum embedding empty empty_like eq
    equal erf erfc erfinv exp exp2 expm1 eye feature_alpha_dropout feature_dropout finfo fix
    flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac frexp full
    full_like gather gcd ge gelu ger gradient greater greater_equal grid_sampler grid_sampler_2d
    grid_sampler_3d group_norm gt hamming_window hann_window hardshrink heaviside histc hsplit
    hstack hypot i0 igamma igammac iinfo imag index_add index_copy index_fill index_put
    index_reduce index_select inner instance_norm inverse is_complex is_floating_point
    is_nonzero is_same_size is_signed is_tensor isclose isfinite isin isinf isnan isneginf
    isposinf isreal istft kaiser_window kron kthvalue layer_norm lcm ldexp le lerp less
    less_equal lgamma linspace log log10 log1p log2 log_softmax logaddexp logaddexp2
    logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logspace logsumexp
    lt masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max maximum mean
    median meshgrid min minimum mm mode moveaxis movedim msort mul multinomial multiply mv
    mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow native_group_norm
    native_layer_norm ne neg negative nextafter nonzero norm normal not_equal numel ones
    ones_like outer pairwise_distance pdist permute pinverse pixel_shuffle pixel_unshuffle
    poisson polar polygamma positive pow prelu prod qr quantile rad2deg rand rand_like randint
    randint_like randn randn_like randperm ravel real reciprocal relu remainder renorm
    repeat_interleave reshape resolve_conj resolve_neg result_type rms_norm roll rot90 round
    row_stack rrelu rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce searchsorted
    select select_scatter selu sgn sigmoid sign signbit sin sinc sinh slice_scatter slogdet
    softmax sort split sqrt square squeeze stack std std_mean stft sub subtract sum svd swapaxes
    swapdims sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt t take take_along_dim
    tan tanh tensor tensor_split tensordot threshold tile topk trace transpose trapezoid trapz
    tril tril_indices triu triu_indices true_divide trunc unbind unflatten unique
    unique_consecutive unravel_index unsqueeze vander var var_mean vdot view_as_complex
    view_as_real vsplit vstack where xlogy zeros zeros_like
"""

_FUNCTIONAL = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices
    adaptive_max_pool3d adaptive_max_pool3d_with_indices affine_grid alpha_dropout avg_pool1d
    avg_pool2d avg_pool3d batch_norm bilinear binary_cross_entropy
    binary_cross_entropy_with_logits celu channel_shuffle conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d cosine_similarity cross_entropy dropout dropout1d
    dropout2d dropout3d elu embedding embedding_bag feature_alpha_dropout fold
    fractional_max_pool2d fractional_max_pool3d gelu glu grid_sample group_norm gumbel_softmax
    hardshrink hardsigmoid hardswish hardtanh huber_loss instance_norm interpolate kl_div
    l1_loss layer_norm leaky_relu linear local_response_norm log_softmax logsigmoid lp_pool1d
    lp_pool2d lp_pool3d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d mish mse_loss
    multi_head_attention_forward nll_loss normalize one_hot pad pairwise_distance pdist
    pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm rrelu scaled_dot_product_attention
    selu sigmoid silu smooth_l1_loss softmax softmin softplus softshrink softsign tanh
    tanhshrink threshold unfold upsample upsample_bilinear upsample_nearest
"""

_SPECIAL = """
    airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 digamma entr erf erfc erfcx erfinv exp2
    expit expm1 gammainc gammaincc gammaln i0 i0e i1 i1e log1p log_ndtr log_softmax logit
    logsumexp multigammaln ndtr ndtri polygamma psi round sinc softmax xlog1py xlogy zeta
"""

_LINALG = """
    cholesky cholesky_ex cond cross det diagonal eigh eigvalsh inv inv_ex lstsq lu lu_factor
    lu_solve matmul matrix_exp matrix_norm matrix_power matrix_rank multi_dot norm pinv qr
    slogdet solve solve_triangular svd svdvals vander vecdot vector_norm
"""

_FFT = """
    fft fft2 fftfreq fftn fftshift hfft ifft ifft2 ifftn ifftshift ihfft irfft irfft2 irfftn
    rfft rfft2 rfftfreq rfftn
"""

_OPERATOR = """
    abs add and_ concat contains eq floordiv ge getitem gt iadd iand ifloordiv ilshift imatmul
    imod imul index inv invert ior ipow irshift is_ is_not isub itruediv ixor le lshift lt
    matmul mod mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor
"""

_PYTHON = """
    abs all any bool complex dict divmod enumerate float getattr int len list max min pow range
    reversed round slice sorted str sum tuple zip
"""

_ATEN = """
    abs.default acos.default acosh.default add.Scalar add.Tensor addmm.default alias.default
    amax.default amin.default any.default any.dim any.dims arange.default arange.start
    arange.start_step argmax.default argmin.default as_strided.default asin.default
    asinh.default atan.default atan2.default atanh.default avg_pool2d.default avg_pool3d.default
    bitwise_and.Scalar bitwise_and.Tensor bitwise_not.default bitwise_or.Scalar
    bitwise_or.Tensor bitwise_xor.Scalar bitwise_xor.Tensor bmm.default cat.default ceil.default
    clamp.Tensor clamp.default clone.default col2im.default constant_pad_nd.default copy.default
    cos.default cosh.default cumprod.default cumsum.default detach.default diagonal.default
    div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode elu.default embedding.default
    empty.memory_format eq.Scalar eq.Tensor erf.default exp.default expand.default expm1.default
    fill.Scalar flip.default floor.default fmod.Scalar fmod.Tensor full.default
    full_like.default gather.default ge.Scalar ge.Tensor gelu.default grid_sampler_2d.default
    gt.Scalar gt.Tensor hardtanh.default im2col.default index.Tensor index_put.default
    index_select.default isinf.default isnan.default le.Scalar le.Tensor leaky_relu.default
    lift_fresh_copy.default log.default log10.default log1p.default log2.default
    logical_and.default logical_not.default logical_or.default logical_xor.default lt.Scalar
    lt.Tensor masked_fill.Scalar masked_fill.Tensor masked_scatter.default max.dim
    max_pool2d_with_indices.default max_pool3d_with_indices.default maximum.default mean.default
    mean.dim min.dim minimum.default mm.default mul.Scalar mul.Tensor native_dropout.default
    native_group_norm.default native_layer_norm.default ne.Scalar ne.Tensor neg.default
    new_full.default new_ones.default new_zeros.default nonzero.default norm.ScalarOpt_dim
    ones.default ones_like.default permute.default pow.Scalar pow.Tensor_Scalar
    pow.Tensor_Tensor prod.default prod.dim_int rand.default randn.default randperm.default
    reciprocal.default reflection_pad1d.default reflection_pad2d.default
    reflection_pad3d.default relu.default remainder.Scalar remainder.Tensor repeat.default
    replication_pad2d.default replication_pad3d.default round.default rsqrt.default rsub.Scalar
    scalar_tensor.default scatter.src scatter.value scatter_add.default scatter_reduce.two
    select.int select_scatter.default sigmoid.default sign.default sin.default sinh.default
    slice.Tensor slice_scatter.default sort.default split_with_sizes.default sqrt.default
    squeeze.dim squeeze.dims sub.Scalar sub.Tensor sum.default sum.dim_IntList sym_numel.default
    sym_size.int tan.default tanh.default topk.default tril.default triu.default trunc.default
    unbind.int unsqueeze.default upsample_bilinear2d.vec upsample_nearest2d.vec var.correction
    var.dim view.default where.self zeros.default zeros_like.default
"""

_METHODS = """
    abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint all allclose
    amax amin aminmax angle any arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax
    argmin argsort argwhere as_strided asin asinh atan atan2 atanh baddbmm bernoulli bfloat16
    bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
    bitwise_xor bmm bool broadcast_to byte cdouble ceil cfloat char cholesky cholesky_inverse
    cholesky_solve chunk clamp clamp_max clamp_min clip clone conj conj_physical contiguous
    copysign corrcoef cos cosh count_nonzero cov cpu cross cuda cummax cummin cumprod cumsum
    deg2rad det detach diag diag_embed diagflat diagonal diagonal_scatter diff digamma dim dist
    div divide dot double dsplit element_size eq equal erf erfc erfinv exp exp2 expand expand_as
    expm1 fix flatten flip fliplr flipud float float_power floor floor_divide fmax fmin fmod
    frac frexp gather gcd ge ger get_device greater greater_equal gt half hardshrink heaviside
    histc hsplit hypot i0 igamma igammac index_add index_copy index_fill index_put index_reduce
    index_select inner int inverse is_complex is_contiguous is_floating_point is_nonzero
    is_same_size is_signed isclose isfinite isinf isnan isneginf isposinf isreal istft item kron
    kthvalue lcm ldexp le lerp less less_equal lgamma log log10 log1p log2 log_softmax logaddexp
    logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit
    logsumexp long lt masked_fill masked_scatter masked_select matmul matrix_exp matrix_power
    max maximum mean median min minimum mm mode moveaxis movedim msort mul multinomial multiply
    mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow ndimension ne neg
    negative nelement new_empty new_full new_ones new_tensor new_zeros nextafter nonzero norm
    not_equal numel outer permute pinverse polygamma positive pow prelu prod qr quantile rad2deg
    ravel real reciprocal relu remainder renorm repeat repeat_interleave reshape reshape_as
    resolve_conj resolve_neg roll rot90 round rsqrt scatter scatter_add scatter_reduce select
    select_scatter sgn short sigmoid sign signbit sin sinc sinh size slice_scatter slogdet
    softmax sort split split_with_sizes sqrt square squeeze std stft stride sub subtract sum
    sum_to_size svd swapaxes swapdims t take take_along_dim tan tanh tensor_split tile to tolist
    topk trace transpose tril triu true_divide trunc type_as unbind unflatten unfold unique
    unique_consecutive unsqueeze var vdot view view_as vsplit where xlogy index requires_grad_
    copy_ detach_ fill_ zero_ squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ abs_ acos_
    acosh_ add_ addbmm_ addcdiv_ addcmul_ addmm_ addmv_ addr_ asin_ asinh_ atan_ atan2_ atanh_
    baddbmm_ bernoulli_ bitwise_and_ bitwise_not_ bitwise_or_ bitwise_xor_ ceil_ clamp_
    clamp_max_ clamp_min_ clip_ copysign_ cos_ cosh_ cummax_ cumprod_ cumsum_ digamma_ div_
    divide_ eq_ erf_ erfc_ erfinv_ exp_ exp2_ expm1_ exponential_ fill_diagonal_ fix_
    float_power_ floor_ floor_divide_ fmod_ frac_ ge_ greater_ greater_equal_ gt_ hypot_
    index_add_ index_copy_ index_fill_ index_put_ index_reduce_ le_ lerp_ less_ less_equal_
    lgamma_ log_ log10_ log1p_ log2_ logical_and_ logical_not_ logical_or_ logical_xor_ logit_
    lt_ masked_fill_ masked_scatter_ mul_ multiply_ nan_to_num_ ne_ neg_ negative_ normal_
    not_equal_ polygamma_ pow_ put_ random_ reciprocal_ relu_ remainder_ renorm_ round_ rsqrt_
    scatter_ scatter_add_ scatter_reduce_ sgn_ sigmoid_ sign_ sin_ sinc_ sinh_ sqrt_ square_
    sub_ subtract_ tan_ tanh_ tril_ triu_ true_divide_ trunc_ uniform_ xlogy_ count keys values
    items append
"""

METHODS = frozenset(_METHODS.split())
"""The methods of tensors, sizes and containers that a file may call."""

_ATTRIBUTES = """
    H T mH mT batch_sizes data device dtype imag indices is_cpu is_cuda is_leaf is_meta
    is_quantized is_sparse itemsize layout nbytes ndim real requires_grad shape sorted_indices
    unsorted_indices values bits eps max min smallest_normal tiny
"""

ATTRIBUTES = frozenset(_ATTRIBUTES.split())
"""What a file may ask of a value with ``getattr``."""


@cache
def functions() -> dict[str, Callable[..., Any]]:
    """Every function that a file may name."""
    return dict(_table())


@cache
def function_names() -> dict[Callable[..., Any], str]:
    """The name of each, the first where there are several."""
    found: dict[Callable[..., Any], str] = {}
    for name, function in functions().items():
        found.setdefault(function, name)
    return found


def _table() -> Iterator[tuple[str, Callable[..., Any]]]:
    holders: tuple[tuple[str, Any, str], ...] = (
        ("torch", torch, _TORCH),
        ("nn.functional", F, _FUNCTIONAL),
        ("special", torch.special, _SPECIAL),
        ("linalg", torch.linalg, _LINALG),
        ("fft", torch.fft, _FFT),
        ("operator", operator, _OPERATOR),
        ("python", builtins, _PYTHON),
    )
    for prefix, holder, names in holders:
        for name in names.split():
            function = getattr(holder, name, None)
            if function is not None:
                yield f"{prefix}.{name}", function
    yield "nn.utils.rnn.pad_sequence", PAD_SEQUENCE
    yield from ((f"math.{n}", f) for n, f in vars(math).items() if callable(f) and n[0] != "_")
    for name in _ATEN.split():
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if operation is not None:
            yield f"aten.{name}", operation
