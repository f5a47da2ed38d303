"""Record what timm and torch make of resized weights, for the tests of the adapters.

Run once with torch and timm installed (recorded with torch 2.13.0, timm 1.0.31), from
this folder:

    python make_adapters.py

`adapters.npz` holds each input beside its output; tests need neither library.
"""

import pathlib

import numpy as np
import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import adapt_input_conv

FILE = pathlib.Path(__file__).parent / "fixtures" / "adapters.npz"

GRIDS = [  # old, new, prefix tokens
    ((7, 7), (12, 12), 0),
    ((14, 14), (7, 7), 1),
    ((7, 7), (5, 9), 1),
    ((6, 10), (9, 4), 2),
    ((4, 4), (4, 7), 5),
]
PATCHES = [((8, 8), (16, 16)), ((8, 8), (6, 6)), ((7, 5), (4, 9))]
LENGTHS = [(8, 13), (12, 5)]


def main():
    generator = torch.Generator().manual_seed(6)
    record = {}

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    for old, new, prefix in GRIDS:
        table = draw(1, prefix + old[0] * old[1], 3)
        name = f"grid:{old}:{new}:{prefix}"
        record[f"{name}:input"] = table.numpy()
        resized = resample_abs_pos_embed(
            table, list(new), list(old), num_prefix_tokens=prefix
        )
        record[f"{name}:output"] = resized.numpy()
    for old, new in PATCHES:
        kernel = draw(4, 2, *old)
        name = f"patch:{old}:{new}"
        record[f"{name}:input"] = kernel.permute(2, 3, 1, 0).numpy()
        resized = resample_patch_embed(kernel, list(new))
        record[f"{name}:output"] = resized.permute(2, 3, 1, 0).numpy()
    for old, new in LENGTHS:
        table = draw(old, 3)
        name = f"length:{old}:{new}"
        record[f"{name}:input"] = table.numpy()
        # Antialiasing exists for pictures only: one whose two columns are equal.
        picture = table.T[None, :, :, None].repeat(1, 1, 1, 2)
        resized = torch.nn.functional.interpolate(
            picture, size=(new, 2), mode="bilinear", antialias=True
        )
        record[f"{name}:output"] = resized[0, :, :, 0].T.numpy()
    stem = draw(4, 3, 3, 3)
    record["channels:input"] = stem.permute(2, 3, 1, 0).numpy()
    for channels in (1, 2, 4, 7):
        adapted = adapt_input_conv(channels, stem)
        record[f"channels:{channels}"] = adapted.permute(2, 3, 1, 0).numpy()
    np.savez_compressed(FILE, **record)


if __name__ == "__main__":
    main()
