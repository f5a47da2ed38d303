"""A slice of CT or MR: how it is read. Nothing is claimed about recognizing it."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxinit._errors import DataError


@dataclass(frozen=True)
class Slice:
    """`pixels` is (height, width), from 0 to 255, as a viewer would show it."""

    modality: str
    pixels: np.ndarray
    unit: str
    low: float
    high: float


def read_dicom(path: str | pathlib.Path) -> Slice:
    """Read one grey slice: stored values to units, and its window to 0 to 255.

    Raises:
      DataError: the file has no single grey picture.
    """
    import pydicom

    with pydicom.dcmread(path) as data:
        try:
            stored = np.asarray(data.pixel_array, np.float32)
        except Exception as error:  # of whichever decoder is installed
            raise DataError(
                f"{path} has no picture that is read here: {error}"
            ) from error
        if stored.ndim != 2:
            raise DataError(
                f"{path} has the shape {stored.shape}; only single grey slices are read"
            )
        values = stored * _number(data, "RescaleSlope", 1.0)
        values += _number(data, "RescaleIntercept", 0.0)
        modality = str(data.get("Modality", "?"))
        low, high = _window(data, values)
        inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
    shown = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    return Slice(
        modality=modality,
        pixels=(255 - shown if inverted else shown).astype(np.float32),
        unit="HU" if modality == "CT" else "stored values",
        low=low,
        high=high,
    )


def examples() -> list[Slice]:
    """A CT and an MR slice that come within pydicom's package."""
    import pydicom.data

    folder = pathlib.Path(pydicom.data.__file__).parent / "test_files"
    return [read_dicom(folder / name) for name in ("CT_small.dcm", "MR_small.dcm")]


def _window(data: Any, values: np.ndarray) -> tuple[float, float]:
    """The window of the file, or else all but a hundredth at either end."""
    width = _number(data, "WindowWidth", 0.0)
    if width > 1:
        centre = _number(data, "WindowCenter", 0.0)
        return centre - width / 2, centre + width / 2
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high)


def _number(data: Any, name: str, default: float) -> float:
    """The first value, where there are several."""
    value = data.get(name)
    if value is None or value == "":
        return default
    return float(value[0] if hasattr(value, "__len__") else value)
