"""The generator of releases is right by the judgement of tools that it was not written with."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
import zlib

import pytest
from PIL import Image

from tests import releases

SUBSETS = releases.small()


def zips(path):
    files = [path] if path.is_file() else sorted(path.rglob("*.zip"))
    return [file for file in files if not file.name.startswith("._")]


def images(data: bytes | str) -> set[bytes]:
    """The bytes of all images in a zip and in the zips within it."""
    contents = set()
    with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as archive:
        for name in archive.namelist():
            if name.endswith(".zip") and not name.rpartition("/")[2].startswith("._"):
                contents |= images(archive.read(name))
            elif name.endswith(".jpg") and "._" not in name:
                contents.add(archive.read(name))
    return contents


@pytest.mark.parametrize("form", releases.FORMS)
def test_every_form_holds_the_same_images(form, tmp_path):
    path = releases.FORMS[form](SUBSETS, tmp_path)
    contents = set().union(*(images(str(file)) for file in zips(path)), set())
    if path.is_dir():
        contents |= {file.read_bytes() for file in path.rglob("*.jpg") if not file.name.startswith("._")}
    assert contents == {data for subset in SUBSETS for data in subset.images.values()}


@pytest.mark.skipif(shutil.which("unzip") is None, reason="Info-ZIP's unzip is not installed")
@pytest.mark.parametrize("form", ["zips_zip64", "zips_to_pipe", "zips_gbk", "one_zip_of_stored_deflated_zips"])
def test_unzip_finds_no_error(form, tmp_path):
    for archive in zips(releases.FORMS[form](SUBSETS, tmp_path)):
        assert subprocess.run(["unzip", "-tqq", archive], stdin=subprocess.DEVNULL).returncode == 0


def test_the_forms_differ_where_they_should():
    inria = SUBSETS[3].files
    plain = releases.zipped(inria)
    assert b"PK\6\6" in releases.zipped_zip64(inria) and b"PK\6\6" not in plain
    assert b"PK\7\x08" in releases.zipped_to_pipe(inria) and b"PK\7\x08" not in plain
    gid = next(subset for subset in SUBSETS if subset.name == "GID").files
    assert "中国".encode("gbk") in releases.zipped_gbk(gid)
    assert "中国".encode() in releases.zipped(gid)
    assert b"GID_dataset\\GF2" in releases.zipped_backslashes(gid)


def test_what_is_said_balances():
    for subset in SUBSETS:
        published = sum(map(len, subset.samples.values()))
        assert len(subset.images) == published + len(subset.unmatched_images)
        assert subset.records == published + len(subset.unmatched_records)
        assert len(subset.unmatched_positions) == len(subset.unmatched_records)
    clean = releases.small(unmatched=False)
    assert not any(subset.unmatched_images or subset.unmatched_records for subset in clean)
    assert releases.pairs(clean).keys() <= releases.pairs(SUBSETS).keys()


def test_positions_point_at_the_records_without_an_image():
    mrssc = next(subset for subset in SUBSETS if subset.name == "MRSSC2.0")
    ((file, position),) = mrssc.unmatched_positions
    assert json.loads(mrssc.files[file])[position]["path"] == mrssc.unmatched_records[0]


def test_pictures_differ_by_name_and_open():
    pictures = {releases.picture(f"{number}") for number in range(100)}
    assert len(pictures) == 100
    assert all(Image.open(io.BytesIO(data)).convert("RGB").size == (32, 32) for data in pictures)


def test_odd_images_that_are_to_be_published_decode_and_the_others_do_not():
    for name, odd in releases.odd_images().items():
        if odd.published:
            image = Image.open(io.BytesIO(odd.data))
            image.load()
            assert image.size == odd.size, name
        else:
            with pytest.raises((OSError, Image.DecompressionBombError, SyntaxError)):
                Image.open(io.BytesIO(odd.data)).load()


@pytest.mark.parametrize("damage", [releases.flip_bit_of_image, releases.zero_block_of_image])
@pytest.mark.parametrize("method", [releases.STORED, releases.DEFLATED])
def test_damage_hits_the_image_that_it_names(damage, method, tmp_path):
    path = releases.single_zip(SUBSETS[3], tmp_path, method)
    name = damage(path, 2)
    assert name == list(SUBSETS[3].images)[2]
    with zipfile.ZipFile(path) as archive:
        for image, data in SUBSETS[3].images.items():
            if image == name:
                with pytest.raises((zipfile.BadZipFile, zlib.error)):
                    archive.read(image)
            else:
                assert archive.read(image) == data


@pytest.mark.parametrize("name", releases.BROKEN_ARCHIVES)
def test_broken_archives_cannot_be_opened(name, tmp_path):
    path = releases.single_zip(SUBSETS[3], tmp_path)
    releases.BROKEN_ARCHIVES[name](path)
    for left in tmp_path.iterdir():
        with pytest.raises((zipfile.BadZipFile, OSError)), zipfile.ZipFile(left) as archive:
            assert archive.testzip() is None


def test_encrypted_entries_ask_for_a_password(tmp_path):
    path = releases.single_zip(SUBSETS[3], tmp_path)
    name = next(iter(SUBSETS[3].images))
    releases.mark_encrypted(path, name)
    with zipfile.ZipFile(path) as archive:
        with pytest.raises(RuntimeError, match="password"):
            archive.read(name)
        assert [info.filename for info in archive.infolist() if info.flag_bits & 1] == [name]


def test_regenerated_folders_are_those_of_upstreams_scripts(tmp_path):
    path = releases.regenerated(SUBSETS, tmp_path, annotations=False)
    assert {"crop_Inria", "fmow_process", "HRSC2016_process", "RGB_jpg", "NIR_jpg", "SAR_jpg"} < {
        entry.name for entry in path.iterdir()
    }
    assert {entry.name for entry in (path / "crop_Inria").iterdir()} == {"512", "1024", "2048", "4096"}
    assert all(releases.is_annotation(entry.name) for entry in (tmp_path / "annotations").iterdir())
