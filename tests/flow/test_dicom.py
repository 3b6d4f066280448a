"""Mammograms as DICOM files, made here by pydicom, give the rows of the pilot deep_piste; grey
levels are those that the standard says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pydicom
import pytest
import yaml
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from federation import errors
from federation.cli.actions import mappings
from nodes.connectors import dicom
from nodes.dicom_keys import Dicom
from nodes.site import RawSource
from simulations.pilots import deep_piste

ROOT = Path(__file__).parents[2]
PILOT, SQL = ROOT / "simulations" / "pilots" / "deep_piste", ROOT / "docs" / "mapping"
COLUMNS = {"patient": "PatientID", "laterality": "ImageLaterality", "incidence": "ViewPosition"}
SIDES = {"droit": "R", "gauche": "L"}


def write(path: Path, pixels: Any, *, bits: int = 8, **attributes: Any) -> None:
    """A mammogram for presentation, uncompressed, of `bits` stored bits."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.Modality, file.PhotometricInterpretation = "MG", "MONOCHROME2"
    file.SamplesPerPixel, file.Rows, file.Columns = 1, *pixels.shape
    file.BitsAllocated = 8 if bits == 8 else 16
    file.BitsStored, file.HighBit = bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.astype(f"{pixels.dtype.kind}{file.BitsAllocated // 8}").tobytes()
    for keyword, value in attributes.items():
        setattr(file, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def grey(tmp_path: Path, pixels: Any, shape: tuple[int, int], **attributes: Any) -> Any:
    """What a single file becomes."""
    write(tmp_path / "images" / "a.dcm", pixels, **attributes)
    with duckdb.connect() as connection:
        columns = {"id": "PatientID"}
        dicom.load(connection, "t", tmp_path / "images", Dicom(shape=shape, columns=columns))
        ((content,),) = connection.execute("SELECT image FROM t").fetchall()
    return np.frombuffer(content, np.uint8).reshape(shape)


def test_a_folder_of_mammograms_gives_the_rows_of_the_pilot(tmp_path: Path) -> None:
    """8 bits and the contract's own size: each pixel arrives as it was."""
    rng = np.random.default_rng(5)
    women = pandas.DataFrame(
        {
            "femme": [f"f{i}" for i in range(12)],
            "age": 50.0 + np.arange(12),
            "densite": list("abcd") * 3,
            "cancer": np.arange(12) % 3 == 0,
        }
    )
    women.to_csv(tmp_path / "women.csv", index=False)
    planted: dict[tuple[str, str], Any] = {}
    for femme in women["femme"]:
        for view in deep_piste.VIEWS:
            planted[femme, view] = rng.integers(0, 256, (64, 64), dtype=np.uint8)
            incidence, side = view.split("_")
            attributes = {"ImageLaterality": SIDES[side], "ViewPosition": incidence.upper()}
            path = tmp_path / "images" / femme / f"{view}.dcm"
            write(path, planted[femme, view], PatientID=femme, **attributes)
    site = _node(tmp_path)
    mappings.run(site, None)
    rows = duckdb.sql(
        f"SELECT * FROM '{tmp_path / 'mapped' / 'mammographies' / 'rows.parquet'}'"
    ).df()
    assert len(rows) == len(planted) == 48
    for row in rows.itertuples():
        image = np.frombuffer(bytes(row.image), np.uint8).reshape(64, 64)
        assert np.array_equal(image, planted[row.femme, row.vue])
    joined = rows.merge(women, on="femme", suffixes=("", "_of_women"))
    for column in ("age", "densite", "cancer"):
        assert (joined[column] == joined[f"{column}_of_women"]).all()


def _node(folder: Path) -> Path:
    """A node.yaml whose mammograms are mapped from a folder of DICOM files."""
    for source in (PILOT / "mammographies.yaml", SQL / "dicom.sql"):
        (folder / source.name).write_text(source.read_text())
    sources = {
        "dicom": {"source": "images", "dicom": {"shape": [64, 64], "columns": COLUMNS}},
        "women": {"source": "women.csv", "types": {"age": "number", "cancer": "boolean"}},
    }
    entry = {"contract": "mammographies.yaml", "mapping": "dicom.sql", "sources": sources}
    node = {"node": "paca", "datasets": {"mammographies": entry}}
    (folder / "node.yaml").write_text(yaml.safe_dump(node))
    return folder / "node.yaml"


@pytest.mark.parametrize(
    ("pixels", "attributes", "expected"),
    [
        # the ends of 12 bits are black and white; 819 of 4095 is a fifth
        (np.array([[0, 819, 4095]], np.uint16), {"bits": 12}, [0, 51, 255]),
        # black and white change places
        (
            np.array([[0, 819, 4095]], np.uint16),
            {"bits": 12, "PhotometricInterpretation": "MONOCHROME1"},
            [255, 204, 0],
        ),
        # a window of 256 values round 1128: 1000 is its first, 1255 its last (C.11.2.1.2)
        (
            np.array([[900, 1051, 1255, 3000]], np.uint16),
            {"bits": 12, "WindowCenter": 1128, "WindowWidth": 256},
            [0, 51, 255, 255],
        ),
        # of several windows the first counts
        (
            np.array([[1000, 1255]], np.uint16),
            {"bits": 12, "WindowCenter": [1128, 9], "WindowWidth": [256, 9]},
            [0, 255],
        ),
        # signed values, and a slope that leaves the ends of the bits where they are shown
        (
            np.array([[-2048, -1229, 2047]], np.int16),
            {"bits": 12, "RescaleSlope": 2, "RescaleIntercept": -100},
            [0, 51, 255],
        ),
    ],
    ids=["bits", "inverted", "window", "windows", "signed"],
)
def test_grey_levels_are_those_of_the_standard(
    tmp_path: Path, pixels: Any, attributes: dict[str, Any], expected: list[int]
) -> None:
    assert grey(tmp_path, pixels, pixels.shape, **attributes).ravel().tolist() == expected


def test_an_image_of_another_size_keeps_the_mean_of_each_area(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
    halved = grey(tmp_path, pixels, (3, 3))
    blocks = pixels.reshape(3, 2, 3, 3).mean((1, 3))
    assert np.abs(halved - blocks).max() <= 0.5  # a whole number
    # 3 pixels onto 2: the middle one is shared half and half
    assert grey(tmp_path, np.array([[0, 90, 240]], np.uint8), (1, 2)).tolist() == [[30, 190]]
    assert grey(tmp_path, np.array([[40]], np.uint8), (2, 2)).tolist() == [[40, 40], [40, 40]]


def test_a_missing_attribute_is_missing_and_several_values_are_one_text(tmp_path: Path) -> None:
    write(tmp_path / "i" / "a", np.zeros((1, 1), np.uint8), PatientID="x", ImageType=["A", "B"])
    columns = {"id": "PatientID", "day": "StudyDate", "kind": "ImageType"}
    with duckdb.connect() as connection:
        dicom.load(connection, "t", tmp_path / "i", Dicom(shape=(1, 1), columns=columns))
        rows = connection.execute("SELECT id, day, kind FROM t").fetchall()
    assert rows == [("x", None, "A\\B")]


def _not_dicom(path: Path) -> None:
    path.write_text("patient f3")


def _without_pixels(path: Path) -> None:
    write(path, np.zeros((1, 1), np.uint8))
    file = pydicom.dcmread(path)
    del file.PixelData
    file.save_as(path)


def _several_frames(path: Path) -> None:
    write(path, np.zeros((2, 2), np.uint8), NumberOfFrames=2, Rows=1)


def _cut_short(path: Path) -> None:
    write(path, np.zeros((8, 8), np.uint8), Rows=90)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_not_dicom, "is no DICOM file"),
        (_without_pixels, "has no image"),
        (_several_frames, "several frames"),
        (_cut_short, r"cannot be decoded \(ValueError\)"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the files broken on purpose
def test_a_file_that_is_no_grey_image_is_told_by_its_place_and_not_by_its_name(
    tmp_path: Path, broken: Any, message: str
) -> None:
    write(tmp_path / "images" / "a.dcm", np.zeros((1, 1), np.uint8))
    broken(tmp_path / "images" / "b.dcm")
    keys = Dicom(shape=(1, 1), columns={"id": "PatientID"})
    with duckdb.connect() as connection, pytest.raises(errors.DataError, match=message) as caught:
        dicom.load(connection, "t", tmp_path / "images", keys)
    assert "source 't': file 2 of 2" in str(caught.value)
    assert "b.dcm" not in str(caught.value) and "f3" not in str(caught.value)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with duckdb.connect() as connection, pytest.raises(errors.SourceError, match="no file"):
        dicom.load(connection, "t", tmp_path, Dicom(shape=(1, 1), columns={"id": "PatientID"}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shape": [0, 4], "columns": {"id": "PatientID"}}, "greater than or equal"),
        ({"shape": [4, 4], "columns": {}}, "at least 1"),
        ({"shape": [4, 4], "columns": {"image": "PatientID"}}, "'image' is the column of the"),
        ({"shape": [4, 4], "columns": {"id": "patient id"}}, "pattern"),
    ],
)
def test_a_mistake_in_the_keys_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RawSource(source="images", dicom=keys)
    good = Dicom(shape=(4, 4), columns={"id": "PatientID"})
    with pytest.raises(ValueError, match="has no `engine`, `table` or `read`"):
        RawSource(source="images", table="t", dicom=good)
