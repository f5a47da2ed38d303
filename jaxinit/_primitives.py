"""What each primitive does, in one place: the tables that walkers of programs share.

A test compares the names with the installed JAX, so that a renamed one is noticed.
"""

from __future__ import annotations

# One element of the result depends on one element of each operand, at the same place.
# Each was found to give the same bits in any chunk of an array (exp, log and their like
# only where its last axis has 16 elements or more: XLA unrolls shorter loops).
ELEMENTWISE = frozenset(
    """
    abs acos add and asin atan2 atanh bitcast_convert_type cbrt ceil clamp complex conj
    convert_element_type copy cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge
    gt imag integer_pow is_finite le log logistic lt max min mul ne neg nextafter
    not or population_count pow real rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient
    sub tan tanh xor
    """.split()  # noqa: SIM905 - a table of names reads better without quotes
)

# Elementwise too. Of acosh, asinh, atan, igamma, igammac and log1p, XLA was found to
# compute the remainder of a loop with other last bits than its body; the rest is
# unexamined.
ELEMENTWISE_UNCHUNKED = frozenset(
    """
    acosh add_any asinh atan bessel_i0e bessel_i1e clz digamma eq_to igamma
    igamma_grad_a igammac le_to lgamma log1p lt_to mulhi polygamma reduce_precision
    regularized_incomplete_beta zeta
    """.split()  # noqa: SIM905
)

# The operands themselves: only their placement, names or gradients differ.
TRANSPARENT = frozenset(
    """
    copy device_put layout_constraint name optimization_barrier pvary reshard
    sharding_constraint stop_gradient
    """.split()  # noqa: SIM905
)

# The elements stay, in their order (a transposition or a repetition does not).
RESHAPING = frozenset({"broadcast_in_dim", "reshape", "squeeze"})

# The elements stay, elsewhere.
STRUCTURAL = RESHAPING | {
    "concatenate",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "pad",
    "rev",
    "slice",
    "split",
    "stack",
    "tile",
    "transpose",
    "unstack",
}

REDUCTIONS = frozenset(
    {
        "argmax",
        "argmin",
        "reduce",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_prod",
        "reduce_sum",
        "reduce_xor",
    }
)

# The programs in them only tell how two elements are combined.
COMBINING = frozenset(
    {
        "reduce",
        "reduce_window",
        "scatter",
        "scatter-add",
        "scatter-max",
        "scatter-min",
        "scatter-mul",
        "scatter-sub",
        "select_and_scatter",
    }
)

CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot_general"})

CUMULATIVE = frozenset({"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"})

# What they hold runs many times, or perhaps.
CONTROL = frozenset({"cond", "scan", "while"})

# From keys to keys and to bits.
RANDOM = frozenset(
    {
        "random_bits",
        "random_clone",
        "random_fold_in",
        "random_gamma",
        "random_seed",
        "random_split",
        "random_unwrap",
        "random_wrap",
        "threefry2x32",
    }
)

TABLES = (
    ELEMENTWISE,
    ELEMENTWISE_UNCHUNKED,
    TRANSPARENT,
    STRUCTURAL,
    REDUCTIONS,
    CUMULATIVE,
    COMBINING,
    CONTRACTIONS,
    CONTROL,
    RANDOM,
)

# Elementwise, in the releases that have them: JAX 0.12 and later.
NEWER = frozenset({"log2", "one_minus_square", "polynomial"})
