"""On meshes of eight devices, by every way in which Flax asks for a sharding.

What Flax takes, for any initializer: boxes of linen by the ``out_shardings`` of jit on
meshes of either type, and inside ``jax.set_mesh`` on an Auto mesh; inside it on an
Explicit mesh the value must already lie as the box says. Annotations of nnx are taken
on meshes of either type inside ``jax.set_mesh``.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from in_flax import KEY, ours, same, theirs
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

NAMES = ("rows", "columns")
SPEC = PartitionSpec(*NAMES)
RULES = (("in", "rows"), ("out", "columns"), *zip(NAMES, NAMES, strict=True))
X = jnp.zeros((2, 8))

by_initializer = pytest.mark.parametrize("name", ["he_uniform", "orthogonal"])
by_axis_type = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])


def mesh_of(axis_type: AxisType) -> Mesh:
    return jax.make_mesh((4, 2), NAMES, axis_types=(axis_type, axis_type))


# ----------------------------------------------------------------------------- linen

BOXES = {
    "with_partitioning": lambda init: nn.with_partitioning(init, NAMES),
    "with_logical_partitioning": lambda init: nn.with_logical_partitioning(
        init, ("in", "out")
    ),
}
by_box = pytest.mark.parametrize("box", BOXES)


@functools.cache
def plain(init: Any) -> Any:
    return nn.Dense(16, kernel_init=init).init(KEY, X)


def laid_out(model: nn.Module, mesh: Mesh) -> Any:
    """The variables of a model that boxes its own, drawn where they are to lie."""
    specs = nn.get_partition_spec(jax.eval_shape(model.init, KEY, X))
    shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
    return nn.meta.unbox(jax.jit(model.init, out_shardings=shardings)(KEY, X))


@by_initializer
@by_axis_type
@by_box
def test_boxes_lie_as_asked_on_auto_and_explicit_meshes(box, axis_type, name):
    init, mesh = getattr(ours, name)(), mesh_of(axis_type)
    variables = laid_out(nn.Dense(16, kernel_init=BOXES[box](init)), mesh)
    assert variables["params"]["kernel"].sharding == NamedSharding(mesh, SPEC)
    same(variables, plain(init))


@by_box
def test_boxes_lie_as_asked_inside_an_auto_mesh(box):
    init, mesh = ours.he_uniform(), mesh_of(AxisType.Auto)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        variables = laid_out(nn.Dense(16, kernel_init=BOXES[box](init)), mesh)
    assert variables["params"]["kernel"].sharding == NamedSharding(mesh, SPEC)
    same(variables, plain(init))


@by_initializer
def test_boxes_lie_as_asked_inside_an_explicit_mesh_given_the_sharding_too(name):
    """Flax asserts the layout of a box there; jax's orthogonal cannot be given one."""
    init, names = getattr(ours, name)(), (None, "columns")
    spec = PartitionSpec(*names)

    def boxed(init: Any) -> nn.Module:
        return nn.Dense(16, kernel_init=nn.with_partitioning(init, names))

    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        variables = boxed(functools.partial(init, out_sharding=spec)).init(KEY, X)
        with pytest.raises(AssertionError, match="did not match the sharding"):
            boxed(init).init(KEY, X)
        if name == "orthogonal":
            peer = functools.partial(theirs.orthogonal(), out_sharding=spec)
            with pytest.raises(NotImplementedError):
                boxed(peer).init(KEY, X)
    variables = nn.meta.unbox(variables)
    assert variables["params"]["kernel"].sharding.spec == spec
    same(variables, plain(init))


class Row(nn.Module):
    init_fn: Any

    @nn.compact
    def __call__(self, x: jax.Array):
        return x @ self.param("w", self.init_fn, (8, 8)), None


def test_a_scanned_box_gains_the_axis_of_the_layers():
    layers: dict[str, Any] = {
        "variable_axes": {"params": 0},
        "split_rngs": {"params": True},
    }
    scanned = nn.scan(
        Row, length=3, metadata_params={nn.meta.PARTITION_NAME: None}, **layers
    )
    init, mesh = ours.he_uniform(), mesh_of(AxisType.Auto)
    variables = laid_out(scanned(nn.with_partitioning(init, NAMES)), mesh)
    wanted = NamedSharding(mesh, PartitionSpec(None, *NAMES))
    assert variables["params"]["w"].sharding == wanted
    same(variables, nn.scan(Row, length=3, **layers)(init).init(KEY, X))


# ------------------------------------------------------------------------------- nnx

LOGICAL = {"out_sharding": ("in", "out"), "sharding_rules": RULES}
ANNOTATIONS = {
    "with_partitioning": lambda init: {
        "kernel_init": nnx.with_partitioning(init, NAMES)
    },
    "with_metadata": lambda init: {
        "kernel_init": nnx.with_metadata(init, out_sharding=NAMES)
    },
    "kernel_metadata": lambda init: {
        "kernel_init": init,
        "kernel_metadata": {"out_sharding": NAMES},
    },
    "logical names": lambda init: {"kernel_init": init, "kernel_metadata": LOGICAL},
}


def linear(**options: Any) -> nnx.Linear:
    return nnx.Linear(8, 16, rngs=nnx.Rngs(KEY), **options)


@functools.cache
def kernel(init: Any) -> jax.Array:
    return linear(kernel_init=init).kernel[...]


@by_initializer
@by_axis_type
@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_annotated_parameters_lie_as_asked(jitted, annotation, axis_type, name):
    init, mesh = getattr(ours, name)(), mesh_of(axis_type)
    make = functools.partial(linear, **ANNOTATIONS[annotation](init))
    with jax.set_mesh(mesh):
        drawn = (nnx.jit(make) if jitted else make)().kernel[...]
    assert drawn.sharding == NamedSharding(mesh, SPEC)
    same(drawn, kernel(init))


@by_initializer
@by_axis_type
def test_a_named_sharding_needs_no_mesh_in_context(axis_type, name):
    init, sharding = getattr(ours, name)(), NamedSharding(mesh_of(axis_type), SPEC)
    drawn = linear(kernel_init=init, kernel_metadata={"out_sharding": sharding})
    assert drawn.kernel[...].sharding == sharding
    same(drawn.kernel[...], kernel(init))


@by_initializer
def test_a_parameter_is_drawn_where_it_lies_on_an_explicit_mesh(name):
    """No whole copy is made first; jax's orthogonal takes no sharding."""
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        stream = nnx.Rngs(KEY).params
        weight = nnx.Param(getattr(ours, name)()(stream(), (8, 16), None, SPEC))
        if name == "orthogonal":
            with pytest.raises(NotImplementedError):
                theirs.orthogonal()(stream(), (8, 16), None, SPEC)
    assert weight[...].sharding.spec == SPEC
    same(weight[...], kernel(getattr(ours, name)()))


def test_another_layout_would_be_noticed():
    mesh = mesh_of(AxisType.Auto)
    with jax.set_mesh(mesh):
        drawn = linear(kernel_init=nnx.with_partitioning(ours.ones, NAMES[::-1]))
    assert drawn.kernel[...].sharding != NamedSharding(mesh, SPEC)
