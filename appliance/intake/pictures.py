"""Opening the pictures that a hospital hands over: PNG, JPEG, TIFF, BMP, WebP and single-frame DICOM.

Whatever comes in leaves as 8-bit PNG made from the pixels alone: no EXIF, no text chunk, no DICOM header goes along.
"""

import io
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from audit.errors import BadInput, EnvironmentProblem

FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
MEND: Final = "copy the image again from where it came, then run the same command"


def open_picture(path: Path, where: str) -> tuple[Image.Image, str]:
    """A picture, fully decoded, and the patient number of its DICOM header (empty for other formats).

    Args:
        path: the file.
        where: the place that names it, for errors.

    Raises:
        BadInput: it is missing, truncated, far too large, or no picture.
        EnvironmentProblem: a DICOM file, and pydicom is not installed.
    """
    try:
        if is_dicom(path):
            return _open_dicom(path, where)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                picture.load()
                return _eight_bit(ImageOps.exif_transpose(picture)), ""
    except FileNotFoundError as failure:
        raise BadInput("The image is missing", where=where, hint=MEND) from failure
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as failure:
        raise BadInput("The image has too many pixels", where=where, hint="cut or shrink it first") from failure
    except (OSError, SyntaxError, ValueError, EOFError) as failure:  # what PIL raises for files that are not whole
        raise BadInput("The image is truncated, damaged or no picture", where=where, hint=MEND) from failure


def to_png(picture: Image.Image) -> bytes:
    """The pixels, and nothing else, as PNG."""
    bare = Image.new(picture.mode, picture.size)
    bare.paste(picture)
    out = io.BytesIO()
    bare.save(out, "PNG")
    return out.getvalue()


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: its preamble says so."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey or RGB, 8 bits; deeper grey is stretched over its own range."""
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_stretch(np.asarray(picture, dtype=np.float64)))
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def _stretch(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255.0 / max(high - low, 1e-9))).round().astype(np.uint8)


def _open_dicom(path: Path, where: str) -> tuple[Image.Image, str]:
    """Pixels through the modality and window tables, as a viewer shows them."""
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError as failure:
        hint = "pip install 'cloche[dicom]'"
        raise EnvironmentProblem(
            "DICOM files need pydicom, which is not installed", where=where, hint=hint
        ) from failure
    try:
        dataset: Any = pydicom.dcmread(path)
        pixels = dataset.pixel_array
        photometric = str(dataset.PhotometricInterpretation)
        number = str(dataset.get("PatientID", "")).strip()
    except (AttributeError, KeyError, NotImplementedError, RuntimeError) as failure:
        raise BadInput("The DICOM file holds no picture that can be read", where=where, hint=MEND) from failure
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or pixels.ndim != 2:
        hint = "export single grey frames"
        raise BadInput("Only single-frame grey DICOM can be read", where=where, hint=hint)
    grey = _stretch(np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), dtype=np.float64))
    return Image.fromarray(255 - grey if photometric == "MONOCHROME1" else grey), number
