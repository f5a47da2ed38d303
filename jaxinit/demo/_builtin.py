"""The tasks that come with scikit-image: textures and faces."""

from __future__ import annotations

import numpy as np

from jaxinit.demo._pictures import Task

SIZE = 48  # at which the network sees them
PATCH = 32
TEXTURES = ("brick", "grass", "gravel")


def textures() -> Task:
    """Patches of three photographs: which material is it?

    The left half of each is for training and choosing, the right half for the test.
    """
    from skimage import data

    return textures_of([getattr(data, name)() for name in TEXTURES])


def textures_of(photographs: list[np.ndarray]) -> Task:
    """The task of these grey photographs, each 512 by 512 with values to 255."""
    random = np.random.default_rng(0)  # of the pictures, which no seed changes
    patches, labels, held = [], [], []
    for number, photograph in enumerate(photographs):
        found, right = patches_of(np.asarray(photograph, np.float32))
        patches.append(np.stack([_seen(patch, random) for patch in found]))
        labels.append(np.full(len(found), number))
        held.append(right)
    images = normalized(np.concatenate(patches))[..., None]
    return Task(
        name="textures",
        title="Textures: brick, grass or gravel?",
        about=(
            "Patches of three photographs (scikit-image, CC0) of 16 to 32 pixels each, "
            "shown at one size, turned and mirrored: wall, lawn and path from nearer "
            "and farther. All have one mean and contrast: brightness is no clue. "
            "Trained on the left half of each photograph, tested on the right half."
        ),
        classes=TEXTURES,
        images=images,
        wide=enlarged(images, SIZE),
        labels=np.concatenate(labels),
        held=np.concatenate(held),
        notes=(
            "There are only three photographs: the test asks whether a network knows "
            "the other half of the same wall, lawn and path, not any wall.",
            "The task was made hard enough to tell methods apart. With upright patches "
            "of one size the small CNN reaches 0.97 with 10 labels a class, and the "
            "pretrained network 0.99. On digits transfer loses to raw pixels.",
        ),
    )


def patches_of(photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patches side by side, and which lie in the right half; none lies in both."""
    rows, columns = (length // PATCH for length in photograph.shape)
    grid = photograph[: rows * PATCH, : columns * PATCH]
    patches = grid.reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2)
    right = np.arange(columns) * PATCH >= photograph.shape[1] / 2
    return patches.reshape(-1, PATCH, PATCH), np.tile(right, rows)


def _seen(patch: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A part of the patch, enlarged to its size, turned by quarters and mirrored."""
    from PIL import Image

    size = int(random.integers(PATCH // 2, PATCH + 1))
    row, column = random.integers(0, PATCH - size + 1, 2)
    part = patch[row : row + size, column : column + size]
    part = np.rot90(part, int(random.integers(4)))
    part = part[:, ::-1] if random.integers(2) else part
    image = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(image.resize((PATCH, PATCH), Image.Resampling.BILINEAR))


def normalized(images: np.ndarray) -> np.ndarray:
    """Each image with mean 0 and standard deviation 1/2, by its own pixels only."""
    centred = images - images.mean((1, 2), keepdims=True)
    return centred / (2 * np.maximum(centred.std((1, 2), keepdims=True), 1e-6))


def faces() -> Task:
    """A hundred faces and a hundred other patches of 25 by 25 pixels."""
    from skimage import data

    images = np.asarray(data.lfw_subset(), np.float32)
    # Stored as shares of 255, whatever the docstring of scikit-image says.
    images = ((images * 255 - 127) / 128)[..., None]
    return Task(
        name="faces",
        title="Faces: face or not?",
        about=(
            "200 grey images of 25 by 25 pixels (scikit-image, from Labeled Faces in "
            "the Wild): 100 faces and 100 others. Each seed draws anew who trains."
        ),
        classes=("face", "other"),
        images=images,
        wide=enlarged(images, SIZE),
        labels=np.repeat([0, 1], 100),
    )


def enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, one image after the other: none learns about its neighbours."""
    import jax

    shape = (len(images), size, size, images.shape[-1])
    return np.asarray(jax.image.resize(images, shape, "linear"))
