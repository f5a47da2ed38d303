"""Run every benchmark, and write down what they say: RESULTS.md and a plot.

    python benchmarks/results.py [--only P6 P7] [--render] [--quick]

Each script checks that its results are right before it prints a time, and prints JSON,
which is kept in benchmarks/results/. `--render` writes the page from what is there,
and runs nothing. `--quick` takes one round, to see that everything runs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

import claims
from measuring import machine

HERE = pathlib.Path(__file__).parent
KEPT = HERE / "results"


SCRIPTS = {
    "materialize": (claims.of_materialize, ["--rounds", "3"]),
    "threefry": (claims.of_threefry, []),
    "against_torch": (claims.of_torch, []),
    "audit": (claims.of_audit, ["--rounds", "3"]),
    "calibrate": (claims.of_calibrate, []),
    "read_checkpoint": (claims.of_reading, ["--rounds", "3"]),
    "sharded": (None, []),
    "scale": (None, []),
    "peers": (None, []),
    "parts": (None, []),
}
QUICK = {
    "materialize": ["--rounds", "1"],
    "threefry": ["--rounds", "1", "--compile-rounds", "1"],
    "against_torch": ["--rounds", "1"],
    "audit": ["--rounds", "1", "--networks", "mlp-50"],
    "calibrate": ["--rounds", "1"],
    "read_checkpoint": ["--rounds", "1", "--megabytes", "64"],
    "sharded": ["--depth", "2", "--width", "512"],
    "scale": ["--rounds", "1"],
    "parts": ["--rounds", "1"],
}


# ----------------------------------------------------------------------------- the page


def rows() -> list[claims.Row]:
    """All claims whose script has run."""
    found = []
    for name, (reader, _) in SCRIPTS.items():
        path = KEPT / f"{name}.json"
        if reader is not None and path.exists():
            found += reader(json.loads(path.read_text()))
    return sorted(found, key=lambda row: int(row.claim[1:]))


def table(header: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [header, ["---"] * len(header), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def page(found: list[claims.Row], where: dict) -> str:
    lines = [
        "# Measured",
        "",
        "Made by the scripts that `make bench` runs, not all at one time; each JSON",
        "says when. Every ratio compares two ways of one task in one run on one",
        "machine, in turn; processes are new where a first call is the claim. Median",
        "(smallest to largest). What is missed says so.",
        "",
        ", ".join(f"{name} {value}" for name, value in where.items()),
        "",
    ]
    cells = []
    for row in found:
        sign = "at least" if row.above else "at most"
        median, low, high = (f"{value:.3g}" for value in row.seen)
        target = f"{sign} {row.target:g} {row.unit}"
        seen, reached = f"{median} ({low} to {high})", "yes" if row.met else "**no**"
        cells.append((row.claim, row.what, target, seen, reached))
    lines += table(("claim", "measured", "target", "seen", "reached"), cells)
    for name in SECTIONS:
        path = KEPT / f"{name}.json"
        if path.exists():
            lines += ["", *SECTIONS[name](json.loads(path.read_text()))]
    return "\n".join(lines) + "\n"


def first_section(found: dict) -> list[str]:
    networks = [name for name in found if " " in name]
    ways = dict.fromkeys(way for name in networks for way in found[name])
    cells = []
    for way in ways:
        timed = [found[name].get(way, {}) for name in networks]
        if any(isinstance(one, dict) and "seconds" in one for one in timed):
            medians = [one["seconds"]["median"] if one else None for one in timed]
            cells.append((way, *("" if m is None else f"{m:.2f}" for m in medians)))
    return [
        "## Seconds to the first parameters",
        "",
        "New processes, imports done. `cache` is JAX's persistent compilation cache:",
        "`filled` is what a second process finds; nothing of it is needed here.",
        "",
        *table(("way", *networks), cells),
    ]


def sharded_section(found: dict) -> list[str]:
    cells = [
        (
            work,
            str(number),
            str(one["seconds"]),
            str(one["own_megabytes"]),
            f"{100 * one['extra']:.0f} %",
        )
        for work, processes in found.items()
        if isinstance(processes, list)
        for number, one in enumerate(processes)
    ]
    return [
        "## On eight devices (P5)",
        "",
        "All bytes equal those of `jax.jit` without a mesh: checked before timing.",
        "",
        *table(("work", "process", "seconds", "own MB", "extra memory"), cells),
    ]


def scale_section(found: dict) -> list[str]:
    cells = []
    for name, one in found["seven_billion"].items():
        seconds, size = one["seconds"]["median"], one["megabytes"]["median"]
        cells.append((name, f"{seconds:.3g}", f"{size:.0f}"))
    growth = []
    for kind in ("depth", "leaves"):
        for name, one in found[f"growth_with_{kind}"].items():
            seconds = ", ".join(f"{s}: {v:.2g}" for s, v in one["seconds"].items())
            growth.append((name, kind, str(one["exponent"]), seconds))
    return [
        "## Seven billion parameters, by their shapes",
        "",
        *table(("work", "seconds", "MB taken"), cells),
        "",
        "Growth: the slope of log seconds against log size; 1 is linear.",
        "",
        *table(("work", "against", "slope", "seconds"), growth),
    ]


def peers_section(found: dict) -> list[str]:
    cells = []
    for one in found["peers"]:
        ratio = "" if one["ratio"] is None else f"{one['ratio']['median']:.3g} x"
        cells.append((one["peer"], one["task"], ratio, one["note"]))
    return [
        "## Beside other libraries",
        "",
        *table(("peer", "task", "theirs over ours", "note"), cells),
    ]


def parts_section(found: dict) -> list[str]:
    cells = []
    for network, calls in found["materialize"].items():
        for call, one in calls.items():
            cells.append((f"materialize, {network}, {call} call", *_shares(one)))
    for network, works in found["audit"].items():
        cells += [(f"{work}, {network}", *_shares(one)) for work, one in works.items()]
    draws = []
    for name, one in found["draws"].items():
        told = (
            f"{one[which]['programs']:.0f} programs, {one[which]['llvm']:.2f} s"
            for which in ("draws", "everything else")
        )
        draws.append((name, f"{one['compile']:.2f}", *told))
    return [
        "## Where the time goes",
        "",
        "Medians, in seconds. A second call has its kernels compiled and its memory at",
        "hand. A step is one of training, compiled.",
        "",
        *table(("profile", "seconds", "of which"), cells),
        "",
        "Compiling the draws of 52 kernels: seconds in all, and of processor time in",
        "LLVM. XLA compiles equal draws once; the loops in which `jax.random.fold_in`",
        "derives a key, once for each, whoever draws.",
        "",
        *table(("draws, keys", "seconds", "draws", "everything else"), draws),
    ]


def _shares(parts: dict) -> tuple[str, str]:
    """The whole, and its parts in order of size, without those below a hundredth."""
    total = parts["total"]
    inside = {name: value for name, value in parts.items() if name != "total"}
    order = sorted(inside, key=lambda name: -inside[name])
    told = [f"{n} {inside[n]:.2g}" for n in order if inside[n] > 0.01 * total]
    return f"{total:.2f}", ", ".join(told)


SECTIONS = {
    "materialize": first_section,
    "sharded": sharded_section,
    "scale": scale_section,
    "peers": peers_section,
    "parts": parts_section,
}


def plot(found: list[claims.Row], path: pathlib.Path):
    """How far each ratio lies from its target, as one picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 0.27 * len(found) + 1.2))
    for place, row in enumerate(reversed(found)):
        share = [
            value / row.target if row.above else row.target / max(value, 1e-3)
            for value in row.seen
        ]
        colour = "#2a78b5" if row.met else "#c8553d"
        axes.plot(sorted(share[1:]), [place] * 2, color=colour, lw=2, alpha=0.5)
        axes.plot(share[0], place, "o", color=colour, ms=5)
    axes.axvline(1, color="0.4", lw=1)
    axes.set_xscale("log")
    ticks = (0.25, 0.5, 1, 2, 4, 8)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    labels = [f"{row.claim}  {row.what}" for row in reversed(found)]
    axes.set_yticks(range(len(found)), labels, fontsize=7)
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.set_xlabel("reached, as a multiple of the target (log scale; right is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    for name in [] if options.render else options.only:
        arguments = QUICK.get(name, []) if options.quick else SCRIPTS[name][1]
        start = time.perf_counter()
        command = [sys.executable, HERE / f"{name}.py", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        (KEPT / f"{name}.json").write_text(done.stdout)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    found = rows()
    # Where most of it was measured, which need not be where the page is written.
    first = KEPT / "materialize.json"
    where = json.loads(first.read_text())["machine"] if first.exists() else machine()
    (HERE / "RESULTS.md").write_text(page(found, where))
    plot(found, HERE / "results" / "reached.png")
    print(HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
