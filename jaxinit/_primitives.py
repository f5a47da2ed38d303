"""What each primitive does, in one place: the tables that walkers of programs share.

A test compares the names with the installed JAX, so that a renamed one is noticed.
"""

from __future__ import annotations

# One element of the result depends on one element of each operand, at the same place.
# Each was found to give the same bits in any chunk of any array.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil
    clamp complex conj convert_element_type copy cos cosh div eq erf erf_inv erfc
    exp exp2 expm1 floor ge gt imag integer_pow is_finite le log log1p logistic lt max
    min mul ne neg nextafter not or population_count pow real rem round rsqrt select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905 - a table of names reads better without quotes
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
    "tile",
    "transpose",
}

REDUCTIONS = frozenset(
    {
        "argmax",
        "argmin",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_precision",
        "reduce_prod",
        "reduce_sum",
        "reduce_xor",
    }
)

CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot_general"})

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

TABLES = (ELEMENTWISE, STRUCTURAL, REDUCTIONS, CONTRACTIONS, RANDOM)
