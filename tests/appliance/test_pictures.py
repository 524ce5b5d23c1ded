"""Pictures as they are kept: the pixels stay, the header goes, and DICOM names its patient."""

from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from appliance.intake.pictures import open_picture, to_png
from audit.errors import BadInput
from audit.vault import Vault
from tests.appliance.conftest import NUMBER, bring_in, write


def test_a_picture_keeps_its_pixels_and_loses_its_header(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "Jane Roe")
    Image.effect_noise((32, 20), 40).save(tmp_path / "a.png", pnginfo=info)
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "Jane Roe", 6  # description; turned by 90 degrees
    Image.new("RGB", (32, 20), "red").save(tmp_path / "a.jpg", exif=exif, icc_profile=b"Jane Roe")
    for name, size in (("a.png", (32, 20)), ("a.jpg", (20, 32))):
        assert b"Jane Roe" in (tmp_path / name).read_bytes()
        picture, number = open_picture(tmp_path / name, name)
        assert (picture.size, number) == (size, "")
        assert b"Jane Roe" not in to_png(picture)
    assert open_picture(tmp_path / "a.png", "")[0].tobytes() == Image.open(tmp_path / "a.png").tobytes()


def test_deep_grey_is_stretched_and_transparency_dropped(tmp_path: Path) -> None:
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((0, 0), 1000)
    deep.putpixel((1, 0), 3000)
    deep.save(tmp_path / "deep.png")
    assert list(open_picture(tmp_path / "deep.png", "")[0].tobytes()) == [0, 255]
    Image.new("RGBA", (2, 2), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png", "")[0].mode == "RGB"


def test_dicom_is_windowed_and_names_its_patient(tmp_path: Path, vault: Vault) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'cloche[dicom]'")
    from pydicom.data import get_testdata_file

    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.PatientID = NUMBER
    dataset.save_as(tmp_path / "ct.dcm")
    picture, number = open_picture(tmp_path / "ct.dcm", "ct")
    assert (picture.size, picture.mode, number) == ((128, 128), "L", NUMBER)
    assert picture.getextrema() == (0, 255)
    write(tmp_path, [{"image": "ct.dcm", "caption": f"CT of {NUMBER}."}])
    assert bring_in(vault, tmp_path / "pairs.jsonl").redacted == 1
    assert vault.catalogue.records()[0].patient == vault.pseudonym(NUMBER)
    write(tmp_path, [{"image": "ct.dcm", "caption": "CT.", "patient": "HN1234"}])
    with pytest.raises(BadInput, match="different patients") as refused:
        bring_in(vault, tmp_path / "pairs.jsonl")
    assert NUMBER not in refused.value.diagnostics() and "HN1234" not in refused.value.diagnostics()
