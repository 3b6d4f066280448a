"""A folder of DICOM files as a raw table of a mapping: a row for each file, with the attributes
that node.yaml names, as texts, and the image as bytes.

Grey levels are whole numbers from 0 to 255: of the file's window (VOI LUT), or else of all that its
bits can hold, with 0 for black. An image of another size is resampled to the wanted shape by the
areas that its pixels share with the new ones. pydicom is the extra `dicom`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.expression import quote_name
from nodes.dicom_keys import IMAGE, Dicom

AT_ONCE = 64  # files whose images are in memory together


def load(connection: duckdb.DuckDBPyConnection, name: str, folder: Path, dicom: Dicom) -> None:
    """Creates the table `name`, a row for each file under `folder`. The message of an error names
    the source and the file's place among the sorted names, and no path and no value."""
    import pandas

    _check_installed(name)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    if not files:
        raise errors.SourceError(f"source {name!r}: there is no file in its folder")
    columns = [*dicom.columns, IMAGE]
    kinds = ", ".join(
        f"{quote_name(column)} {'BLOB' if column == IMAGE else 'VARCHAR'}" for column in columns
    )
    connection.execute(f"CREATE TABLE {quote_name(name)} ({kinds})")
    for rows in _in_batches(name, files, dicom):
        frame = pandas.DataFrame(rows, columns=columns, dtype=object)
        connection.register("dicom_rows", frame)
        connection.execute(f"INSERT INTO {quote_name(name)} SELECT * FROM dicom_rows")
        connection.unregister("dicom_rows")


def _check_installed(name: str) -> None:
    if find_spec("pydicom") is None:
        raise errors.SetupError(
            f"source {name!r}: DICOM files need pydicom, which comes with the extra `dicom`: pip"
            " install 'hdh-federation[dicom]'"
        )


def _in_batches(name: str, files: Sequence[Path], dicom: Dicom) -> Iterator[list[list[Any]]]:
    for first in range(0, len(files), AT_ONCE):
        chunk = files[first : first + AT_ONCE]
        yield [
            _row(f"source {name!r}: file {number} of {len(files)}, by name,", path, dicom)
            for number, path in enumerate(chunk, first + 1)
        ]


def _row(place: str, path: Path, dicom: Dicom) -> list[Any]:
    """The attributes of a file, None where it lacks one, and its image."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        file = pydicom.dcmread(path)
    except (InvalidDicomError, OSError, EOFError):
        raise errors.DataError(
            f"{place} is no DICOM file; move what is not out of the folder"
        ) from None
    values = [_text(file.get(keyword)) for keyword in dicom.columns.values()]
    return [*values, resampled(_grey(place, file), dicom.shape).tobytes()]


def _text(value: Any) -> str | None:
    """An attribute as the standard writes it; several values are separated by backslashes."""
    if value is None or str(value) == "":
        return None
    is_several = isinstance(value, Sequence) and not isinstance(value, str)
    return "\\".join(map(str, value)) if is_several else str(value)


def _grey(place: str, file: Any) -> Floats:
    """(height, width): from 0 for black to 255 for white, as the file wants to be shown."""
    from pydicom.pixels import apply_modality_lut

    if "PixelData" not in file:
        raise errors.DataError(f"{place} has no image; move it out of the folder")
    if file.get("SamplesPerPixel", 1) != 1 or int(file.get("NumberOfFrames") or 1) != 1:
        raise errors.DataError(f"{place} has colours or several frames; split it into grey images")
    try:
        stored = file.pixel_array
        values = np.asarray(apply_modality_lut(stored, file), np.float64)
    except Exception as reason:  # the decoders of compressed images fail in many ways
        raise errors.DataError(
            f"{place} cannot be decoded ({type(reason).__name__}); write it uncompressed, or"
            " install a decoder of pydicom, such as pylibjpeg"
        ) from None
    low, high = _window(file)
    grey = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0) * 255
    is_inverted = file.PhotometricInterpretation == "MONOCHROME1"
    return np.asarray(255 - grey if is_inverted else grey)


def _window(file: Any) -> tuple[float, float]:
    """The values that are shown as black and as white: the first window of the file, by the linear
    function of the standard (PS3.3, C.11.2.1.2), or the ends of its stored bits."""
    if file.get("WindowCenter") is not None and file.get("WindowWidth") is not None:
        centre, width = (
            float(value[0] if isinstance(value, Sequence) else value)
            for value in (file.WindowCenter, file.WindowWidth)
        )
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    bits, is_signed = int(file.BitsStored), int(file.PixelRepresentation) == 1
    first = -(2 ** (bits - 1)) if is_signed else 0
    slope, shift = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    return slope * first + shift, slope * (first + 2**bits - 1) + shift


# -- resampling
def resampled(grey: Floats, shape: tuple[int, int]) -> Any:
    """(height, width) of `shape`, uint8: the mean of the old pixels under each new one."""
    rows, columns = (_shares(old, new) for old, new in zip(grey.shape, shape, strict=True))
    return np.rint(rows @ grey @ columns.T).astype(np.uint8)


def _shares(old: int, new: int) -> Floats:
    """(new, old): the share of each old pixel in each new one; each row adds up to 1."""
    edges = np.arange(new + 1) * (old / new)
    starts = np.arange(old)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    shares = np.clip(shared, 0.0, None)
    return np.asarray(shares / shares.sum(1, keepdims=True))
