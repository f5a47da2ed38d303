"""What the benchmarks claim: each number with its target, read from their JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Row:
    """One number that is claimed, against its target.

    Attributes:
      claim: P1 to P11, as they are numbered in this project.
      what: what was measured.
      target: what it should reach.
      above: whether it should lie above the target; else below.
      seen: the median, the smallest and the largest.
      unit: "x" for ratios, "%" for shares.
    """

    claim: str
    what: str
    target: float
    above: bool
    seen: tuple[float, float, float]
    unit: str = "x"

    @property
    def met(self) -> bool:
        median = self.seen[0]
        return median >= self.target if self.above else median <= self.target


def three(found: dict, factor: float = 1.0) -> tuple[float, float, float]:
    """Median, smallest, largest of a `measuring.spread`."""
    return found["median"] * factor, found["min"] * factor, found["max"] * factor


# ------------------------------------------------------------- what each script claims

NAMES = {"resnet50": "ResNet-50", "gpt2": "GPT-2 small", "vit": "ViT-B/16"}
SOONER = {"resnet50": 12, "gpt2": 6, "vit": 8}


def of_materialize(found: dict) -> Iterator[Row]:
    for kind in ("linen", "nnx"):
        for network, name in NAMES.items():
            one = found[f"{kind} {network}"]
            label = f"{name}, {kind}"
            ratio = three(one["jit"]["seconds_over_materialize"])
            what = f"jit(init) over materialize, {label}"
            yield Row("P1", what, SOONER[network], True, ratio)
            if "torch" in one:
                ratio = one["torch"]["seconds_over_materialize"]
                inverse = {
                    "median": 1 / ratio["median"],
                    "min": 1 / ratio["max"],
                    "max": 1 / ratio["min"],
                }
                what = f"materialize over torch's construction, {label}"
                yield Row("P2", what, 1.5, False, three(inverse))
            extra = three(one["extra_memory_over_parameters"], 100)
            yield Row(
                "P4", f"memory above the parameters, {label}", 10, False, extra, "%"
            )
    depths = found["compile_seconds_by_depth"]["materialize"]
    least, most = depths[min(depths, key=int)], depths[max(depths, key=int)]
    growth = most["median"] / least["median"]
    ends = most["min"] / least["max"], most["max"] / least["min"]
    what = "compile seconds, depth 96 over depth 12"
    yield Row("P3", what, 1.1, False, (growth, *ends))


PARTS = {
    "compile": "compile",
    "processor": "compile (processor)",
    "run": "run",
}


def of_threefry(found: dict) -> Iterator[Row]:
    targets = {"bits": 3, "normal": 2, "truncated_normal": 2}
    for name, target in targets.items():
        ratio = found["throughput"][name]["processor_seconds"]["ratio"]
        yield Row("P6", f"jax.random over ours, {name}", target, True, three(ratio))
    for where, kernels in found["resnet_50_kernels"].items():
        for part, name in PARTS.items():
            what = f"52 kernels in one jit, {where}, {name}"
            yield Row("P8", what, 2, True, three(kernels[f"{part}_seconds"]["ratio"]))


def of_torch(found: dict) -> Iterator[Row]:
    targets = {"normal": 1, "uniform": 1, "truncated_normal": 5}
    for name, one in found["rows"].items():
        what = f"torch.nn.init over ours, {name}"
        yield Row("P7", what, targets.get(name, 1), True, three(one["ratio"]))


def of_audit(found: dict) -> Iterator[Row]:
    for name, one in found["networks"].items():
        ratio = three(one["wall_seconds"]["ratio"])
        yield Row("P9", f"audit over compiling a step, {name}", 2, False, ratio)


def of_calibrate(found: dict) -> Iterator[Row]:
    for name, one in found["activations"].items():
        ratio = three(one["lsuv_over_one_pass"])
        what = f"LSUV over one pass, 50 layers of {name}"
        yield Row("P10", what, 20, True, ratio)


def of_reading(found: dict) -> Iterator[Row]:
    for way in ("merge", "merge, torch layout"):
        if way in found["ways"]:
            one = found["ways"][way]
            yield Row(
                "P11", f"{way}, over the file", 1.5, False, three(one["over_file"])
            )
            extra = three(one["extra"], 100)
            yield Row("P11", f"{way}, memory above the result", 15, False, extra, "%")
