"""Text is read as what was written, or its record is reported. It never becomes another text."""

import io
import json
import random

import pytest

from conversion import annotations
from conversion.annotations import Limits
from conversion.annotations.encoding import judged
from tests import releases


def read(data: bytes, **options):
    form, records = annotations.read(lambda: io.BytesIO(data), **options)
    return form, list(records)


def lines(prompts) -> str:
    """JSON Lines as a program writes them that does not escape."""
    return "".join(
        json.dumps({"image": f"p/{number}.jpg", "prompt": prompt}, ensure_ascii=False) + "\n"
        for number, prompt in enumerate(prompts)
    )


WESTERN = [
    "the city’s harbour",
    "at 10°N",
    "a “quoted” word",
    "“Hello,” she said — twice…",
    "São Paulo, Brazil",
    "Zürich – Straße",
    "fields of 10 m² each, 5 µm",
    "forêt, créée à Paris",
    "Tromsø and Ålborg",
    "l’Île d’État",
    "0.5 m × 0.5 m, 20±5 %",
    "© Google, GF2™, € 5",
    "España: ¿dónde?",
    "the ’90s",
    "\nÉcole",
]


@pytest.mark.parametrize("prompt", WESTERN)
def test_windows_1252_is_read_where_it_reads_well(prompt):
    form, records = read(lines(["plain", prompt, "plain too"]).encode("windows-1252"))
    assert form.encoding == "windows-1252"
    assert [record.prompt for record in records] == ["plain", prompt, "plain too"]


CHINESE = [
    "中文",
    "一张城市的航拍图像，有许多建筑物。",
    "低精度分辨率，雾，农田",
    "二〇二四年的森林，面积10㎡",
    "图像1.jpg 港口",
]


@pytest.mark.parametrize("encoding", ["gbk", "gb18030"])
@pytest.mark.parametrize("prompt", CHINESE)
def test_chinese_text_in_gbk_is_read_as_such(prompt, encoding):
    form, records = read(lines(["plain", prompt]).encode(encoding))
    assert form.encoding == "gb18030"
    assert [record.prompt for record in records] == ["plain", prompt]


OTHERS = {
    "big5": ["一張城市的航拍圖像，有許多建築物。", "衛星影像", "中文", "港口", "機場"],
    "cp1251": ["Спутниковый снимок города", "город", "ГОРОД"],
    "koi8-r": ["Спутниковый снимок города", "ГОРОД МОСКВА"],
    "euc-kr": ["위성 사진에 도시가 보인다", "농경지"],
    "shift-jis": ["衛星画像", "これは農地の衛星画像です"],
    "euc-jp": ["衛星画像", "これは農地の衛星画像です"],
    "cp1250": ["žluťoučký kůň", "łąka i żółty las", "město a řeka", "Děčín"],
    "cp1254": ["yeşil ağaçlık ve ırmak"],
    "cp1253": ["δορυφορική εικόνα πόλης"],
    "tis-620": ["ภาพถ่ายดาวเทียมของเมือง"],
    "cp437": ["café", "Zürich", "at 10°N"],
    "mac-roman": ["café", "Zürich", "at 10°N", "the city’s harbour"],
}


@pytest.mark.parametrize(("encoding", "prompt"), [(name, text) for name, texts in OTHERS.items() for text in texts])
def test_text_in_another_encoding_is_reported_and_never_another_text(encoding, prompt):
    form, records = read(lines(["plain", prompt, "plain too"]).encode(encoding))
    assert form.encoding == "unknown"
    assert [record.prompt for record in records] == ["plain", None, "plain too"]
    if b"\\" in prompt.encode(encoding):  # the second byte of some characters is a backslash, which JSON escapes with
        assert records[1].problem in ("invalid_text", "invalid_json")
    else:
        assert records[1].problem == "invalid_text" and "encoding" in records[1].detail


@pytest.mark.parametrize("prompt", ["an 🛩 over 农田", "🛩", "𠀀𠀁"])
def test_surrogates_in_cesu_8_are_the_character_that_they_stand_for(prompt):
    text = lines(["plain", prompt, "Wälder"])
    data = "".join(
        char if ord(char) < 0x10000 else char.encode("utf-16-be").decode("utf-16-be", "surrogatepass") for char in text
    )
    data = data.encode("utf-16-be").decode("utf-16-be")  # the same text
    cesu = b"".join(
        "".join(chr(unit) for unit in memoryview(char.encode("utf-16-le")).cast("H")).encode("utf-8", "surrogatepass")
        for char in data
    )
    assert cesu != text.encode()
    for window in (*range(4, 60), 1 << 18):
        form, records = read(cesu, limits=Limits(window=window))
        assert form.encoding == "utf-8"
        assert [record.prompt for record in records] == ["plain", prompt, "Wälder"], window


PROMPTS = ["农田和森林", "一张城市的图像", "plain", "卫星图像显示大片村庄", "a 中文 b", "图像1.jpg"] * 3


@pytest.mark.parametrize("damage", [b"\xff", b"\x00", b"?", b"A", b"}", b"\n", b""])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_damaged_byte_costs_its_record_alone(encoding, damage):
    data = lines(PROMPTS).encode(encoding)
    places = [place for place, byte in enumerate(data) if byte > 0x7F]
    for place in random.Random(0).sample(places, 40):
        form, records = read(data[:place] + damage + data[place + 1 :])
        assert form.encoding == encoding
        problems = {record.position: record.problem for record in records if record.problem}
        assert len(problems) == 1 and set(problems.values()) <= {"invalid_text", "invalid_json"}
        assert [record.prompt for record in records if not record.problem] == [
            prompt for number, prompt in enumerate(PROMPTS) if number not in problems
        ]


def test_records_of_another_encoding_in_one_file_are_reported():
    for strange, others in (("gb18030", "utf-8"), ("utf-8", "gb18030"), ("gb18030", "windows-1252")):
        prompts = PROMPTS if others != "windows-1252" else WESTERN
        data = lines(prompts).encode(others) + lines(["农田"]).encode(strange)
        form, records = read(data)
        assert form.encoding == others
        assert [record.prompt for record in records] == [*prompts, None]
        assert records[-1].problem == "invalid_text"


def test_the_bytes_that_are_not_text_are_shown():
    _, records = read(lines(["农田", "x"]).encode().replace("田".encode(), b"\xe7\x94", 1))
    assert r"农\xe7\x94" in records[0].detail
    records[0].text.encode()


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "windows-1252"])
def test_it_makes_no_difference_how_much_is_read_at_a_time(encoding):
    data = lines(WESTERN if encoding == "windows-1252" else PROMPTS).encode(encoding)
    data = data.replace(data[-20:-18], b"\xff", 1)
    whole = read(data)
    for window in (*range(4, 64), 100, 1000):
        assert read(data, limits=Limits(window=window)) == whole


def test_a_file_whose_first_text_beyond_ascii_comes_late():
    plain = lines(["plain"] * 20_000)
    for encoding, prompt in (("windows-1252", "the city’s harbour"), ("gb18030", "卫星图像"), ("utf-8", "卫星图像")):
        form, records = read((plain + lines([prompt])).encode(encoding))
        assert (form.encoding, records[-1].prompt) == (encoding, prompt)


@pytest.mark.parametrize("name", ["武汉", "北京", "西安", "哈尔滨", "乌鲁木齐"])
def test_a_name_is_enough_to_know_gbk(name):
    """Of 武汉 in GBK the last three bytes are a character in UTF-8 too."""
    assert judged(f"GID_dataset/GF2_{name}_001.jpg".encode("gbk")) == "gb18030"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("length", [0, 500])
def test_inspect_shows_the_encoding_and_one_record_that_is_not_ascii(encoding, length, tmp_path, run):
    paths = [f"Inria_dataset/{number}.jpg" for number in range(4)]
    texts = ["plain", "x" * length + "卫星图像显示大片村庄", "农田和森林", "plain"]
    rows = [{"image": path, "prompt": text} for path, text in zip(paths, texts, strict=True)]
    files = {"MMM-RS_Inria.json": json.dumps(rows, ensure_ascii=False).encode(encoding)}
    files |= {path: releases.picture(path) for path in paths}
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(files)})
    _, printed, _ = run("inspect", path)
    assert f"4 records (array, {encoding};" in printed
    assert '{"image": "Inria_dataset/0.jpg", "prompt": "plain"}' in printed
    assert "卫星图像显示大片村庄" in printed and "农田" not in printed
    assert max(map(len, printed.splitlines())) < 200
    (file,) = json.loads(run("inspect", path, "--json")[1])["subsets"]["Inria"]["annotations"]
    assert (file["encoding"], json.loads(file["not_ascii"])) == (encoding, rows[1])


def test_inspect_shows_one_record_once(tmp_path, run):
    rows = [{"image": "Inria_dataset/0.jpg", "prompt": "农田和森林"}]
    files = {
        "MMM-RS_Inria.json": json.dumps(rows, ensure_ascii=False).encode(),
        rows[0]["image"]: releases.picture("0"),
    }
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(files)})
    assert run("inspect", path)[1].count("农田和森林") == 1
