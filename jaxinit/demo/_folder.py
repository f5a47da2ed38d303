"""The user's own labelled images: one sub-folder for each class."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from jaxinit._errors import DataError
from jaxinit.demo._medical import read_dicom
from jaxinit.demo._pictures import Task, label_counts

SIZE, SMALL = 64, 32  # at which the pretrained network, and the small one, see them
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
_DICOM = (".dcm", ".dicom")
_MOST = 400  # images a class; the demo is about few


def folder(path: str | pathlib.Path) -> Task:
    """Images in PATH/CLASS/, or in PATH/train/CLASS/ and PATH/test/CLASS/.

    Grey or colour, PNG, JPEG, TIFF, BMP, GIF, WebP or DICOM, of any size. With folders
    `train` and `test` nothing is moved between them, as is needed where several images
    are of one patient.

    Raises:
      DataError: no folder, fewer than two classes, too few images of a class, or a
        file that cannot be read; it names the folder or the file.
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise DataError(
            f"{root} is no folder; name one with a sub-folder for each class"
        )
    inner = _folders(root)
    given = {each.name.lower() for each in inner} == {"train", "test"}
    if given:
        parts = {each.name.lower(): each for each in inner}
        names = _classes(parts["train"])
        if (other := _classes(parts["test"])) != names:
            raise DataError(
                f"{root}: train has the classes {', '.join(names)}, test has "
                f"{', '.join(other)}; both need the same sub-folders"
            )
        sources = [(parts["train"], False), (parts["test"], True)]
    else:
        names, sources = _classes(root), [(root, False)]
    images, labels, held = [], [], []
    for source, test in sources:
        for number, name in enumerate(names):
            found = [_read(file) for file in _files(source / name)]
            images += found
            labels += [number] * len(found)
            held += [test] * len(found)
    channels = max(image.shape[-1] for image in images)
    task = Task(
        name="folder",
        title=f"{root.resolve().name}: {_list(names)}?",
        about=_about(given, len(images), channels),
        classes=names,
        images=_stack(images, SMALL, channels),
        wide=_stack(images, SIZE, channels),
        labels=np.array(labels),
        held=np.array(held) if given else None,
        notes=_notes(given),
    )
    label_counts(task)  # raises if there are too few
    return task


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        each for each in root.iterdir() if each.is_dir() and each.name[0] not in "._"
    )


def _classes(root: pathlib.Path) -> tuple[str, ...]:
    names = tuple(each.name for each in _folders(root))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise DataError(
            f"{root}: there must be a sub-folder for each of two classes or more, "
            f"found {found}"
        )
    return names


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    known = (*_PICTURES, *_DICOM)
    files = sorted(each for each in directory.rglob("*") if each.is_file())
    found = [each for each in files if each.suffix.lower() in known]
    if not found:
        raise DataError(
            f"{directory} has no images ({', '.join(suffix[1:] for suffix in known)})"
        )
    if len(found) > _MOST:
        chosen = np.random.default_rng(0).permutation(len(found))[:_MOST]
        found = [found[number] for number in sorted(chosen)]
    return found


def _read(file: pathlib.Path) -> np.ndarray:
    """(height, width, 1 or 3), from 0 to 255."""
    from PIL import Image

    try:
        if file.suffix.lower() in _DICOM:
            return read_dicom(file).pixels[..., None]
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # 16 bits or more: by their own range
                array = np.asarray(image, np.float32)
                low, high = float(array.min()), float(array.max())
                return (255 * (array - low) / max(high - low, 1e-6))[..., None]
            grey = image.mode in ("1", "L", "LA")
            array = np.asarray(image.convert("L" if grey else "RGB"), np.float32)
            return array[..., None] if grey else array
    except DataError:
        raise
    except Exception as error:  # whatever a decoder thinks of
        raise DataError(
            f"{file} cannot be read as an image: {error}; mend it or take it out"
        ) from error


def _stack(images: Sequence[np.ndarray], size: int, channels: int) -> np.ndarray:
    """All at one size, in the network's units; grey ones repeated beside colour."""
    from PIL import Image

    stacked = []
    for image in images:
        planes = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(image[..., plane])).resize(
                    (size, size), Image.Resampling.BILINEAR
                )
            )
            for plane in range(image.shape[-1])
        ]
        planes = planes * (channels if len(planes) < channels else 1)
        stacked.append(np.stack(planes, -1))
    return ((np.stack(stacked) - 127) / 128).astype(np.float32)


def _list(names: Sequence[str]) -> str:
    shown = list(names[:4]) + (["..."] if len(names) > 4 else [])
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


def _about(given: bool, count: int, channels: int) -> str:
    kind = "grey" if channels == 1 else "colour"
    how = (
        "split by your folders train and test"
        if given
        else "who trains, decides about settings and is tested is drawn anew by seed"
    )
    return f"{count} of your own images, {kind}; {how}."


def _notes(given: bool) -> tuple[str, ...]:
    if given:
        return ()
    return (
        "If several images are of one patient, or of one scene, a random split tests "
        "on what was trained on. Sort them into train/CLASS and test/CLASS then.",
    )
