"""The optimizers of the installed optax, each built with what it requires."""

import inspect
import types

import optax
import optax.contrib

# By what optax exports, so that its next optimizer is tested by installing it.
ALIASES = {
    name: item
    for name, item in vars(optax).items()
    if isinstance(item, types.FunctionType) and item.__module__ == "optax._src.alias"
}
LINE_SEARCHES = {"lbfgs"}
CONTRIB = {
    name: getattr(optax.contrib, name)
    for name in (
        "acprop",
        "ademamix",
        "adopt",
        "cocob",
        "dadapt_adamw",
        "dog",
        "dowg",
        "madgrad",
        "momo",
        "momo_adam",
        "muon",
        "prodigy",
        "schedule_free_adamw",
        "schedule_free_sgd",
        "simplified_ademamix",
    )
}
REQUIRED = {
    "learning_rate": 0.1,
    "max_learning_rate": 1.0,
    "min_learning_rate": 1e-3,
    "momentum": 0.9,
    "key": 0,
    "noise_scale": 0.1,
}


def built(function):
    """The optimizer with its required arguments, and nothing else, chosen."""
    parameters = inspect.signature(function).parameters.values()
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    return function(**{name: REQUIRED[name] for name in needed})


def extra_arguments(name, value):
    """What optimizers that look at the loss are given at each step."""
    return {"value": value} if name == "polyak_sgd" or name.startswith("momo") else {}
