"""Starts of language models, by depth: GPT-2, Megatron, OLMo, torchtitan, T5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxinit._report import Finding, Report
from jaxinit.presets._anatomy import Anatomy, Part, anatomy
from jaxinit.presets._depth import (
    WRITERS,
    Depth,
    block_of,
    checked_depth,
    depth_of,
    require_branches,
)
from jaxinit.presets._starts import Start, started

_STDDEV = 0.02
_VECTORS = {"norm_scale": 1.0, "norm_bias": 0.0, "bias": 0.0}
# Left as they are: gates and whatever a recipe does not speak of.
KEPT = frozenset({"gate", "scale", "skip_scale", "other"})

Formula = Callable[[Part, str, Depth | None], Start | None]


def gpt2(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start as GPT-2 does: 0.02, and less for what is added to the residual stream.

    .. math:: w \sim N(0, 0.02^2), \qquad
        w_{out} \sim N\Bigl(0, \frac{0.02^2}{N}\Bigr)

    N is the number of residual branches, 2L in a transformer of L blocks: each adds
    1/N, so that the stream grows by the same amount at every depth. Biases start at 0,
    scales of norms at 1; embeddings, positions and the head are weights as well.

    Args:
      f: any JAX function of parameters and data; see :func:`jaxinit.from_linen`.
      params: the tree to start: arrays, or ShapeDtypeStructs where there is a key.
      args: further arguments of f.
      depth: L, the number of blocks; counted in the program by default, the layers of a
        scan included.
      roles: ordered pairs of a pattern and a role, which overrule the use, or None to
        keep the leaf; see ``presets.ROLES``.
      key: a JAX random key, to draw anew; each leaf from it folded with its name.
        Without one the weights at hand are rescaled to the deviation, and keep their
        directions.

    Returns:
      ``(params, report)``: a tree of the same kind; for each leaf its role, its layer,
      its deviation, and the factor in it that depth makes.

    Raises:
      RuleError: there is no residual branch, a leaf's role is not known, or a rule
        matches nothing.
      ValueError: there is no key, and a leaf is a shape or zero.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     for inner, outer in params["blocks"]:
      ...         x = x + jax.nn.relu(x @ inner) @ outer
      ...     return x @ params["head"]
      >>> block = jnp.zeros((64, 256)), jnp.zeros((256, 64))
      >>> params = {"blocks": [block] * 4, "head": jnp.zeros((64, 10))}
      >>> key, x = jax.random.key(0), jnp.ones((2, 64))
      >>> params, report = presets.gpt2(f, params, x, key=key)
      >>> [round(float(w.std()), 3) for w in params["blocks"][0]]  # 0.02 / sqrt(4)
      [0.02, 0.01]

    Source: Radford et al. 2019, section 2.3.
    """

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        factor = depth.branches**-0.5 if depth else 1.0
        return Start(_STDDEV * factor, factor)

    return language("gpt2", formula, f, params, args, depth, roles, key)


def megatron(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start as Megatron does in full, which Llama 2 uses.

    .. math:: σ = 0.02, \qquad σ_{out} = \frac{0.02}{\sqrt{N}}, \qquad
        σ_{head} = \frac{1}{\sqrt{d}}

    with N residual branches and a head of d inputs. All are cut off at three deviations
    of the normal distribution, and σ is what they have after that. A tied table is an
    embedding, of deviation 0.02. Arguments, results and errors are those of
    :func:`gpt2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     x = x + jax.nn.relu(x @ params["in"]) @ params["out"]
      ...     return x @ params["head"]
      >>> params = {name: jnp.zeros((64, 64)) for name in ("in", "out", "head")}
      >>> key, x = jax.random.key(0), jnp.ones((2, 64))
      >>> params, report = presets.megatron(f, params, x, key=key)
      >>> round(float(params["head"].std()) * 8, 1)  # 1 / sqrt(64) is 1 / 8
      1.0

    Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 4.2; "full_megatron" of
    OLMo's code for the head and the cut.
    """

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        if role == "head":
            return Start(_fan_in(part) ** -0.5, cut=3.0)
        factor = depth.branches**-0.5 if depth else 1.0
        return Start(_STDDEV * factor, factor, cut=3.0)

    return language("megatron", formula, f, params, args, depth, roles, key)


def olmo(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start as OLMo-1 does: by fan, and less the deeper a block is.

    .. math:: σ = \frac{1}{\sqrt{d}}, \qquad
        σ_{out} = \frac{1}{\sqrt{2 n (l + 1)}}

    with n the inputs of the product that is added to the residual stream and l the
    number of its block, from 0. d is what the weight reads, the width of the model; a
    row of a table has d numbers. All are cut off at three deviations of the normal
    distribution, and σ is what they have after that. `depth` changes nothing here;
    arguments, results and errors are those of :func:`gpt2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     for inner, outer in params:
      ...         x = x + jax.nn.relu(x @ inner) @ outer
      ...     return x
      >>> params = [(jnp.zeros((64, 256)), jnp.zeros((256, 64)))] * 2
      >>> key, x = jax.random.key(0), jnp.ones((2, 64))
      >>> params, report = presets.olmo(f, params, x, key=key)
      >>> [row["stddev"] for row in report.records()]
      [0.125, 0.04419417382415922, 0.125, 0.03125]

    Source: "mitchell" of OLMo's code; Groeneveld et al. 2024 (arXiv:2402.00838).
    """

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        if role in WRITERS:
            factor = (2 * (block_of("olmo", part) + 1)) ** -0.5
            return Start(_fan_in(part) ** -0.5 * factor, factor, cut=3.0)
        return Start(width_of(part, role) ** -0.5, cut=3.0)

    return language("olmo", formula, f, params, args, depth, roles, key)


def torchtitan(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start as torchtitan starts Llama 3: 0.02, and less the deeper a block is.

    .. math:: σ = 0.02, \qquad σ_{out} = σ_{up} = \frac{0.02}{\sqrt{2 (l + 1)}},
        \qquad σ_{head} = \frac{1}{\sqrt{d}}, \qquad σ_{embedding} = 1

    with l the number of the block, from 0. "up" is the one of two widening products
    that is multiplied, as it is, with the other behind its activation (w3). The head is
    cut off at three deviations of the normal distribution, and has σ after that.
    `depth` changes nothing here; arguments, results and errors are those of
    :func:`gpt2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     gate = jax.nn.silu(x @ params["w1"])
      ...     return x + (gate * (x @ params["w3"])) @ params["w2"]
      >>> params = {name: jnp.zeros((64, 64)) for name in ("w1", "w2", "w3")}
      >>> key, x = jax.random.key(0), jnp.ones((2, 64))
      >>> params, report = presets.torchtitan(f, params, x, key=key)
      >>> [round(row["stddev"], 4) for row in report.records()]
      [0.02, 0.0141, 0.0141]

    Source: torchtitan's code of Llama 3 and DeepSeek-V3.
    """

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        if role == "head":
            return Start(_fan_in(part) ** -0.5, cut=3.0)
        if role == "embedding":
            return Start(1.0)
        if role in (*WRITERS, "feed_forward_up"):
            factor = (2 * (block_of("torchtitan", part) + 1)) ** -0.5
            return Start(_STDDEV * factor, factor)
        return Start(_STDDEV)

    return language("torchtitan", formula, f, params, args, depth, roles, key)


def _fan_in(part: Part) -> float:
    return float(part.use.fan_in or 1.0)


def width_of(part: Part, role: str) -> float:
    """d: what a weight reads, or what a row of a table holds."""
    if role in ("embedding", "position", "token", "attention_bias"):
        row = part.uses[0].out_axis[-1:] if part.uses[0].kind == "gather" else (-1,)
        return float(part.shape[row[0]]) if row and part.shape else 1.0
    if role in WRITERS:
        return float(part.use.fan_out or 1.0)
    return _fan_in(part)


def language(
    preset: str,
    formula: Formula,
    f: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    depth: Any,
    roles: Any,
    key: Any,
    findings: Callable[[Anatomy], list[Finding]] | None = None,
) -> tuple[Any, Report]:
    network = anatomy(f, params, *args, roles=roles)
    require_branches(preset, network)
    said = checked_depth(preset, depth, network)

    def says(part: Part, role: str) -> Start | None:
        if role in KEPT:
            return None
        if role in _VECTORS:
            # What 1 + w is multiplied by does not start at 1.
            return None if part.use.transformed else Start(value=_VECTORS[role])
        writes = role in WRITERS
        own = depth_of(preset, part, network, said) if writes else None
        return formula(part, role, own)

    found = findings(network) if findings else []
    notes = depth_notes(network, said)
    return started(preset, network, says, key, found, notes)


def depth_notes(network: Anatomy, said: tuple[int, ...] | None) -> list[str]:
    """What was counted."""
    notes = []
    for number, stream in enumerate(network.streams):
        text = f"{stream.writers} residual branches in {stream.depth} blocks"
        if said is not None:
            text += f", counted as {said[number]} blocks"
        notes.append(text + ".")
    return notes
