"""One way in which a program uses one parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

Kind = Literal[
    "dot",
    "conv",
    "gather",
    "bias",
    "scale",
    "placed",
    "initial",
    "input",
    "elementwise",
    "statistic",
    "output",
    "unknown",
    "unused",
]

# Those that sum products of the leaf and the signal.
PRODUCTS = frozenset({"dot", "conv"})

Site = tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Use:
    """How a program uses a parameter at one place.

    Attributes:
      kind: "dot" and "conv" sum products of the leaf and the signal; "gather" looks
        rows up; "bias" adds, "scale" multiplies, "elementwise" does something else one
        element at a time; "placed" stands among the signal's own elements (a class
        token); "initial" is what a loop's carry starts from; "input" enters the program
        as data would (learned queries); of "statistic" only reductions reach the signal
        (a penalty); "output" is returned as it is; "unknown" is not understood, see
        `detail`; "unused" changes no output.
      fan_in: products summed into one output, had the input no border; averages where
        strides or dilations make them unequal. None where the kind has no fans.
      fan_out: outputs that one input contributes to, likewise.
      taps_in: the exact average of `fan_in` over all outputs, at the sizes traced:
        products with padding are not counted. Where nothing is padded, `fan_in`. None
        where a kernel is masked and its input padded: `detail` says so.
      taps_out: the exact average of `fan_out` over all inputs.
      in_axis: axes of the stored array that are summed over.
      out_axis: axes of the stored array that index outputs.
      batch_axis: axes that select one of several independent weights, `stacked` ones
        included. Spatial axes of a convolution are in none of the three. An axis that
        the program splits may stand in two.
      groups: of a convolution, `feature_group_count`.
      blocks: into how many equal parts the program splits the product along its last
        dimension: gates, or query, key and value, whose weights are fused in the leaf.
      stacked: axes along which a loop runs, one layer for each index.
      count: how many times in one call each element takes part in this use; None in a
        loop whose length the program does not tell.
      where: file, line and function of the user's code; None if nothing is known.
      site: the equation, in the program as it was traced: equation numbers from the
        outermost program inwards, each step into an inner program followed by its
        role as `_jaxpr.subprograms` says it.
      operand: which operand of that equation holds the leaf.
      part: where in the product its outputs lie if those of other leaves lie beside
        them, as with kernels that are concatenated first: the axis, the first index and
        that behind the last. None where it makes all of the product, or takes part in
        all of it.
      bias_site: the equation that adds the bias to this product; None if none does.
      sum_site: the equation that completes the sum of this product with others, as in
        a recurrent cell, biases and all; None where it is not added to another one.
      summed: how many products that sum has.
      transformed: whether arithmetic other than a cast comes before the use.
      scales: whether multiplying the leaf by a positive number multiplies the product
        by it: false behind a normalization, a quantizer, or a sum with another leaf.
      factor: the root mean square of the constants that the leaf is multiplied by
        first, as in ``x @ (w * 0.1)``; constant masks count as missing taps instead.
      feeds_norm: whether the product, with its bias, goes into a normalization and
        nowhere else, so that its scale has no effect. Best effort: recognized are
        divisions by the root of a mean square.
      activation: the elementwise function that follows the product, its bias and the
        sum with other products, to be called on an array of any shape; the identity
        where the next step is no elementwise function; None where several functions
        follow, or it is no product.
      activation_name: what to call it in a report.
      recurrent: whether a loop applies the leaf to what came of it in the last round.
      tied: whether the leaf has several uses.
      stopped: whether no gradient reaches the leaf though the outputs depend on it.
      detail: for "unknown" what was in the way; else a remark, or nothing.
    """

    kind: Kind
    fan_in: float | None = None
    fan_out: float | None = None
    taps_in: float | None = None
    taps_out: float | None = None
    in_axis: tuple[int, ...] = ()
    out_axis: tuple[int, ...] = ()
    batch_axis: tuple[int, ...] = ()
    groups: int = 1
    blocks: int = 1
    stacked: tuple[int, ...] = ()
    count: int | None = 1
    where: str | None = None
    site: Site = ()
    operand: int | None = None
    part: tuple[int, int, int] | None = None
    bias_site: Site | None = None
    sum_site: Site | None = None
    summed: int = 1
    transformed: bool = False
    scales: bool = True
    factor: float = 1.0
    feeds_norm: bool = False
    activation: Callable[[Any], Any] | None = None
    activation_name: str = ""
    recurrent: bool = False
    tied: bool = False
    stopped: bool = False
    detail: str = ""

    @property
    def is_product(self) -> bool:
        """Whether it sums products of the leaf and the signal."""
        return self.kind in PRODUCTS
