"""`mmm-rs preview`: one page that shows what the folder holds, and asks for nothing. Read by a real Chromium."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mmm_rs_cli import page as rendering
from mmm_rs_cli import parts, preview
from mmm_rs_cli.preview import write_preview
from tests import browser, converted

HOSTILE = """</script><img src=x onerror="document.title='owned'"><style>*{display:none}</style>, "a" & 'b' <!-- ${x}"""
LONG_WORD = "W" * 400


class Page(HTMLParser):
    """What the page says to a reader of HTML that is not ours: elements, and the texts of prompts and headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.prompts: list[str] = []
        self.parts: list[tuple[str, str]] = []  # (part's name, its text)
        self.keys: list[str] = []
        self.cells: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if tag not in ("meta", "img", "input"):
            self._open.append((tag, values.get("class") or ""))
        if values.get("class") == "prompt":
            self.prompts.append("")
        if "data-part" in values and any(name == "prompt" for _, name in self._open):
            self.parts.append((values["data-part"], ""))
        if tag == "h3":
            self.keys.append("")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        classes = [name for _, name in self._open]
        tags = [tag for tag, _ in self._open]
        if "prompt" in classes:
            self.prompts[-1] += data
            if classes[-1].startswith("part"):
                self.parts[-1] = (self.parts[-1][0], self.parts[-1][1] + data)
        if "h3" in tags:
            self.keys[-1] += data
        if tags and tags[-1] in ("td", "th"):
            self.cells[-1] += data

    def images(self) -> list[dict]:
        return [values for tag, values in self.elements if tag == "img"]

    def table(self) -> dict[str, list[int]]:
        """subset -> shown here, samples, pairs by modality."""
        rows = [self.cells[start : start + 6] for start in range(6, len(self.cells), 6)]
        return {name: [int(cell.replace(",", "")) for cell in numbers] for name, *numbers in rows}


def example_samples() -> list[converted.Sample]:
    """The usual small dataset, and a sample whose texts want to be more than text."""
    hostile = converted.Sample(
        "GID/hostile_" + "k" * 70,
        {"rgb": f"fog, {HOSTILE}, {LONG_WORD}"},
        HOSTILE,
        HOSTILE,
        satellite=HOSTILE,
        gsd_level=None,
        derived=None,
    )
    hostile.images["rgb"] = converted.picture("x", 1, 600)
    usual = converted.samples()
    for number, sample in enumerate(usual):  # no two images of one colour
        for place, modality in enumerate(sample.prompts):
            sample.images[modality] = converted.picture(modality, 3 * number + place)
    return [*usual, hostile]


def page_of(samples: list[converted.Sample], folder: Path) -> Page:
    converted.write(folder / "out", samples)
    return Page(write_preview(folder / "out").paths[0])


def test_every_prompt_stands_there_letter_by_letter(tmp_path):
    samples = example_samples()
    page = page_of(samples, tmp_path)
    assert set(page.keys) == {sample.key for sample in samples}
    expected = {prompt for sample in samples for prompt in sample.prompts.values() if prompt is not None}
    assert set(page.prompts) == expected


def test_parts_of_a_prompt_are_marked_as_what_they_are(tmp_path):
    prompt = "Satellite imagery, Ultra-high precision resolution, night ,built-up,a city, lit, GF2,   GID"
    sample = converted.Sample("GID/a", {"rgb": prompt}, "a city, lit", images={"rgb": converted.picture("x", 1)})
    assert page_of([sample], tmp_path).parts == [
        ("image kind", "Satellite imagery"),
        ("GSD level", "Ultra-high precision resolution"),
        ("weather", "night"),
        ("category", "built-up"),
        ("caption", "a city, lit"),
        ("satellite", "GF2"),
        ("dataset", "GID"),
    ]


def test_text_of_the_dataset_is_never_markup(tmp_path):
    samples = example_samples()
    page = page_of(samples, tmp_path)
    tags = [tag for tag, _ in page.elements]
    assert len(page.images()) == sum(len(sample.prompts) for sample in samples)
    assert (tags.count("script"), tags.count("style"), tags.count("title")) == (1, 1, 1)
    assert not [name for _, values in page.elements for name in values if name.startswith("on")]
    assert [prompt for prompt in page.prompts if HOSTILE in prompt]
    assert [image for image in page.images() if image["alt"].startswith("RGB: ") and HOSTILE in image["alt"]]


def test_images_are_in_the_page_small_and_of_the_right_samples(tmp_path):
    samples = example_samples()
    page = page_of(samples, tmp_path)
    expected = {f"{modality.upper()}": [] for modality in converted.MODALITIES}
    for image in page.images():
        head, data = image["src"].split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as thumbnail:
            assert thumbnail.format == "JPEG"
            assert thumbnail.size == (int(image["width"]), int(image["height"]))
            assert max(thumbnail.size) <= rendering.SIDE
            expected[image["alt"].split(":")[0]].append(thumbnail.convert("RGB").getpixel((60, 60)))
    order = {key: position for position, key in enumerate(page.keys)}
    for modality, pixels in expected.items():
        shown = sorted((s for s in samples if modality.lower() in s.prompts), key=lambda s: order[s.key])
        for sample, pixel in zip(shown, pixels, strict=True):
            with Image.open(io.BytesIO(sample.images[modality.lower()])) as original:
                source_pixel = original.convert("RGB").getpixel((60, 60))
            assert all(abs(a - b) < 12 for a, b in zip(pixel, source_pixel, strict=True)), sample.key


def test_the_table_counts_the_whole_dataset(tmp_path):
    samples = example_samples()
    converted.write(tmp_path / "out", samples)
    page = Page(write_preview(tmp_path / "out", ["SEN1-2"]).paths[0])
    table = page.table()
    assert table["SEN1-2"] == [5, 5, 5, 0, 4]  # one has no SAR prompt
    assert table["WHU-OPT-SAR"] == [0, 4, 4, 4, 3]
    assert table["all"] == [5, len(samples), len(samples), 4, 7]
    assert {key.split("/")[0] for key in page.keys} == {"SEN1-2"}


def noise() -> bytes:
    """A picture that no encoder makes small."""
    image = Image.frombytes("RGB", (400, 400), random.Random(0).randbytes(3 * 400 * 400))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_the_page_stays_below_ten_megabytes_and_shows_an_even_share(tmp_path):
    prompt = "a town, " * 500
    many = [
        converted.Sample(f"WHU-OPT-SAR/A_{i}_0", dict.fromkeys(converted.MODALITIES, f"{prompt}{i}"), prompt)
        for i in range(150)
    ]
    for number, sample in enumerate(many):
        data = noise() if number % 15 == 0 else converted.picture("x", number)
        sample.images.update(dict.fromkeys(converted.MODALITIES, data))
    converted.write(tmp_path / "out", many, shards=4)
    result = write_preview(tmp_path / "out")
    page = Page(result.paths[0])

    assert result.samples == preview.IMAGES // 3 == 100
    assert page.keys == [f"WHU-OPT-SAR/A_{number * 150 // 100}_0" for number in range(100)]
    assert page.prompts[0].startswith(prompt[: rendering.LONGEST_TEXT]) and "more characters" in page.prompts[0]

    sizes = [len(image["src"]) for image in page.images()]  # in base64
    assert len(sizes) == preview.IMAGES
    assert 0.5 < max(sizes) / (rendering.IMAGE_BYTES * 4 / 3) < 1.01
    assert result.size == result.paths[0].stat().st_size
    assert result.size - sum(sizes) + preview.IMAGES * 1.01 * rendering.IMAGE_BYTES * 4 / 3 < 10_000_000


def test_equal_folders_make_equal_pages(tmp_path):
    pages = []
    for name in ("a", "b"):
        converted.write(tmp_path / name / "out", example_samples())
        pages.append(write_preview(tmp_path / name / "out").paths[0].read_bytes())
    assert pages[0] == pages[1]


def test_an_image_that_cannot_be_decoded_does_not_stop_the_page(tmp_path, monkeypatch):
    sample = example_samples()[0]
    data = sample.images["rgb"]
    monkeypatch.setitem(sample.images, "rgb", data[:300] + bytes(len(data) - 302) + data[-2:])
    page = page_of([sample], tmp_path)
    assert page.images() == [] and page.prompts == [sample.prompts["rgb"]]


def test_further_pages_show_other_samples_all_of_them_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "IMAGES", 10)  # on a page: 5 samples of each subset
    keys = [f"GID/a{number}" for number in range(7)] + [f"fMoW/b{number}" for number in range(3)]
    samples = [converted.Sample(key, {"rgb": key}, key, images={"rgb": converted.picture("x", 1)}) for key in keys]
    converted.write(tmp_path / "out", samples, shards=1)
    written = write_preview(tmp_path / "out", pages=9)
    assert [path.name for path in written.paths] == ["out-preview.html", "out-preview-2.html"]
    pages = [Page(path) for path in written.paths]
    first = ["fMoW/b0", "fMoW/b2", "GID/a0", "GID/a2", "GID/a4", "GID/a6"]
    assert [page.keys for page in pages] == [first, ["fMoW/b1", "GID/a1", "GID/a3", "GID/a5"]]
    assert written.samples == len(keys) and not written.more
    links = [
        [values["href"] for tag, values in page.elements if tag == "a" and ".html" in values["href"]] for page in pages
    ]
    assert links == [["out-preview-2.html"] * 2, ["out-preview.html"] * 2]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    converted.write(tmp_path / "out")
    return tmp_path / "out"


def test_the_page_lies_beside_the_folder_which_is_left_as_it_was(out, run, monkeypatch):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    page = out.parent / "out-preview.html"
    for folder in (out, "."):
        page.unlink(missing_ok=True)
        monkeypatch.chdir(out)
        code, printed, errors = run("preview", folder)
        assert (code, errors) == (0, [])
        assert re.fullmatch(rf"{page}: 20 samples of 5 subsets, [\d.]+ kB\. Open it in a browser\n", printed)
        assert page.is_file()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_command_says_how_to_see_more(out, run, monkeypatch):
    monkeypatch.setattr(preview, "IMAGES", 2)
    _, _, errors = run("preview", out, "--config", "SEN1-2", "--pages", "2")
    assert errors == [f"There are more samples: mmm-rs preview {out} --config SEN1-2 --pages 3"]
    assert run("preview", out, "--config", "SEN1-2", "--pages", "5")[2] == []


def test_a_page_replaces_a_page_but_no_other_file(out, run, tmp_path):
    page = tmp_path / "other" / "look.html"
    for _ in range(2):
        assert run("preview", out, "--output", page, "--config", "Inria", "--config", "weather")[0] == 0
    assert {key.split("/")[0] for key in Page(page).keys} == {"Inria", "weather"}
    page.write_text("<p>mine")
    code, _, errors = run("preview", out, "--output", page)
    assert code == 2 and len(errors) == 1 and errors[0].startswith(f"mmm-rs: {page}: exists and is not a preview")
    assert page.read_text() == "<p>mine"


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["{out}", "--output", "{out}/preview.html"], 2, "{out}/preview.html: is in the converted folder"),
        (["{out}", "--output", "{out}/data/../index/x.html"], 2, "{out}/data/../index/x.html: is in the converted"),
        (["{out}", "--output", "{out}/.."], 5, "{out}/..: cannot be written"),
        (["{out}", "--config", "Berlin"], 2, "--config 'Berlin': no such subset"),
        (["{out}", "--config", "fMoW"], 2, "--config fMoW: {out} holds no samples of it, only of weather, WHU-OPT-SAR"),
        (["{out}/data"], 5, "{out}/data: no manifest.json here"),
        (["{out}/nowhere"], 2, "{out}/nowhere: no such folder"),
    ],
)
def test_bad_usage_gets_one_line_and_no_page(out, run, arguments, code, line):
    got, printed, errors = run("preview", *(argument.format(out=out) for argument in arguments))
    assert (got, printed, len(errors)) == (code, "", 1), errors
    assert errors[0].startswith(f"mmm-rs: {line.format(out=out)}")
    assert not list(out.parent.rglob("*.html"))


def test_a_damaged_shard_gets_one_line_and_no_page(out, run):
    shard = out / "data" / "Inria" / "train-00000-of-00002.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    code, _, errors = run("preview", out)
    assert code == 6 and len(errors) == 1
    assert errors[0].startswith(f"mmm-rs: {shard}: the") and "mmm-rs verify" in errors[0]
    assert not list(out.parent.rglob("*.html"))


# --- in the browser --------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(browser.PROGRAM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    converted.write(folder / "out", example_samples())
    return write_preview(folder / "out").paths[0]


SHOWN = (
    "Array.from(document.querySelectorAll('article'), a => a.checkVisibility() && a.querySelector('h3').textContent)"
)
COUNT = "document.querySelector('output').textContent"
OUTLINE = "(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))"
FOCUS = "(n => n.name || n.className || n.id || n.tagName)(document.activeElement)"


def shown(chromium: browser.Browser) -> list[str]:
    return [key for key in chromium.run(SHOWN) if key]


def choose(chromium: browser.Browser, name: str, value: str) -> None:
    chromium.run(f"""(() => {{ const field = document.querySelector("[name={name}]"); field.value = "{value}";
                     field.dispatchEvent(new Event("input", {{bubbles: true}})); }})()""")


@needs_browser
def test_filters_filter_and_say_how_many_are_shown(chromium, page):
    chromium.open(page)
    assert chromium.run(COUNT) == "21 of 21 shown" and len(shown(chromium)) == 21

    choose(chromium, "subset", "SEN1-2")
    assert chromium.run(COUNT) == "5 of 21 shown"
    assert {key.split("/")[0] for key in shown(chromium)} == {"SEN1-2"}
    assert chromium.run("Array.from(document.querySelectorAll('section')).filter(s => s.checkVisibility()).length") == 1

    choose(chromium, "subset", "")
    choose(chromium, "level", "ordinary")
    choose(chromium, "weather", "snow")
    assert sorted(shown(chromium)) == ["weather/snowy/a0", "weather/snowy/a1"]

    choose(chromium, "text", "FARM  a1")
    assert shown(chromium) == ["weather/snowy/a1"] and chromium.run(COUNT) == "1 of 21 shown"
    here = "Array.from(document.querySelectorAll('.here')).filter(s => s.checkVisibility()).map(s => s.textContent)"
    assert chromium.run(here) == ["1 of 6 shown"]

    choose(chromium, "text", "no such word")
    assert shown(chromium) == [] and chromium.run(COUNT).startswith("0 of 21 shown")
    chromium.run("document.querySelector('button').click()")
    chromium.until(COUNT + " === '21 of 21 shown'")

    choose(chromium, "level", "-")
    assert sorted(key.split("/")[0] for key in shown(chromium)) == ["GID", "MRSSC2_0"]


@needs_browser
def test_choices_are_those_that_samples_have_with_their_number(chromium, page):
    chromium.open(page)
    options = "Array.from(document.querySelector('[name=%s]').options, o => o.text)"
    assert chromium.run(options % "subset") == [
        "all",
        "weather (6)",
        "WHU-OPT-SAR (4)",
        "SEN1-2 (5)",
        "Inria (3)",
        "GID (1)",
        "MRSSC2.0 (2)",
    ]
    assert chromium.run(options % "weather") == ["all", "fog (2)", "night (2)", "snow (2)", "none stated (15)"]
    assert "high, 0.5-1 m (" not in "".join(chromium.run(options % "level"))


@needs_browser
def test_the_keyboard_reaches_everything_and_the_focus_is_seen(chromium, page):
    chromium.open(page)
    order = []
    for _ in range(12):
        chromium.press("Tab")
        order.append(chromium.run(FOCUS))
        style, width = chromium.run(OUTLINE)
        assert style == "solid" and width >= 2, order
    fields = ["subset", "modality", "category", "level", "weather", "text"]
    assert order == ["skip", "SUMMARY", *fields, "BUTTON", "small", "small", "small"]  # the last: of the first sample

    chromium.open(page)
    for _ in range(7):
        chromium.press("Tab")
    chromium.press("ArrowDown")
    assert chromium.run(COUNT) == "2 of 21 shown"  # the first weather: fog
    chromium.press("Tab")
    chromium.type("a1")
    chromium.press("Enter")  # submits nothing
    assert shown(chromium) == ["weather/fog/a1"]

    chromium.open(page)
    chromium.press("Tab")
    assert chromium.run("document.activeElement.getBoundingClientRect().left") >= 0  # it is seen only now
    chromium.press("Enter")
    assert chromium.run("document.activeElement.id") == "samples"


@needs_browser
def test_nothing_is_asked_for_and_nothing_runs_that_a_prompt_brought(chromium, page):
    chromium.open(page)
    assert [url for url in chromium.requests if not url.startswith("data:image/jpeg;base64,")] == [page.as_uri()]
    assert chromium.problems == []
    assert chromium.run("document.title") == "out: a look inside"
    assert HOSTILE in chromium.run("document.querySelector('main').innerText").replace("\n", " ")
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert chromium.run(refused) == "refused" and any("Content Security Policy" in text for text in chromium.problems)


@needs_browser
@pytest.mark.parametrize("width", [360, 700, 1400])
def test_nothing_is_wider_than_the_window(chromium, page, width):
    chromium.open(page, width, 800)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    outside = """Array.from(document.querySelectorAll("body *"))
        .filter(node => !node.closest(".scroll, .skip") && node.checkVisibility())
        .filter(node => node.getBoundingClientRect().right > innerWidth + .5)
        .map(node => node.outerHTML.slice(0, 80))"""
    assert chromium.run(outside) == []
    tops = """Array.from(document.querySelectorAll(".across-3 article"), a =>
        new Set(Array.from(a.querySelectorAll("figure"), f => Math.round(f.getBoundingClientRect().top))).size)"""
    assert chromium.run(tops) == [1, 1, 1, 1]  # side by side on a telephone too


# The contrast of each piece of text with what is painted behind it, by the formula of WCAG 2.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const draw = canvas.getContext("2d", {willReadFrequently: true});
  const paint = (colour) => { draw.fillStyle = colour; draw.fillRect(0, 0, 1, 1);
                              return Array.from(draw.getImageData(0, 0, 1, 1).data).slice(0, 3); };
  const linear = (value) => (value /= 255) <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const light = (rgb) => { const [r, g, b] = rgb.map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const contrasts = [];
  for (const node of document.querySelectorAll("body *")) {
    if (!node.checkVisibility() || !Array.from(node.childNodes).some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (node.closest("script, option")) continue;
    const above = []; for (let element = node; element; element = element.parentElement) above.unshift(element);
    let behind; for (const element of above) behind = paint(getComputedStyle(element).backgroundColor);
    const text = paint(getComputedStyle(node).color);
    const [low, high] = [light(text), light(behind)].sort((a, b) => a - b);
    contrasts.push([node.tagName + "." + node.className, (high + .05) / (low + .05), light(behind)]);
  }
  return contrasts;
})()"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_in_the_scheme_that_the_reader_prefers(chromium, page, dark):
    chromium.open(page, dark=dark)
    texts = chromium.run(CONTRAST)
    assert len(texts) > 100 and {name.split(".")[0] for name, *_ in texts} >= {"H1", "TD", "LABEL", "P", "SPAN", "DT"}
    assert all((ground < 0.1) if dark else (ground > 0.5) for _, _, ground in texts)
    assert [text for text in texts if text[1] < 4.5] == []


@needs_browser
def test_parts_differ_without_colour(chromium, page):
    chromium.open(page)
    drawn = """Array.from(document.querySelectorAll(".legend .part"), p => { const s = getComputedStyle(p);
        return [s.textDecorationLine, s.textDecorationStyle, s.textDecorationThickness].join(" "); })"""
    assert len(set(chromium.run(drawn))) == len(parts.PARTS) == 7


@needs_browser
def test_a_screen_reader_is_told_what_is_where(chromium, page):
    chromium.open(page)
    outline = chromium.accessible()
    roles = [role for role, _ in outline]
    landmarks = ("banner", "main", "search", "contentinfo", "status", "table")
    assert [roles.count(role) for role in landmarks] == [1] * len(landmarks)
    names = {role: [name for other, name in outline if other == role] for role in set(roles)}
    assert names["combobox"] == ["Subset", "Modality", "Category", "GSD level", "Weather"]
    assert names["complementary"] == ["Counts and legend"]
    assert names["searchbox"] == ["Words in prompt, key or labels"]
    assert len(names["image"]) == sum(len(sample.prompts) for sample in example_samples())
    assert all(re.match("(RGB|NIR|SAR): .", name) for name in names["image"])
    assert set(names["region"]) == {"The whole dataset", *(sample.fields()["subset"] for sample in example_samples())}
    assert "SEN1-2/ROIs1158_spring_1_p1" in names["heading"] and names["heading"][0] == "out: a look inside"
    read = " ".join(names["StaticText"])
    assert "GSD level: Ordinary precision resolution ,  weather: fog ,  caption: a view of a farm." in read
    assert chromium.run("document.querySelector('output').getAttribute('aria-live')") == "polite"


@needs_browser
def test_all_is_shown_without_scripts(chromium, page):
    chromium.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(page)
        outline = chromium.accessible()
    finally:
        chromium.send("Emulation.setScriptExecutionDisabled", value=False)
    roles = [role for role, _ in outline]
    assert roles.count("article") == 21 and "search" not in roles  # no filters that would do nothing


@needs_browser
def test_every_image_is_drawn(chromium, page):
    chromium.open(page)
    widths = chromium.run("Promise.all(Array.from(document.images, i => i.decode().then(() => i.naturalWidth)))")
    assert len(widths) == sum(len(sample.prompts) for sample in example_samples())
    assert set(widths) == {64, rendering.SIDE}


@needs_browser
def test_modality_and_category_filter_too(chromium, page):
    chromium.open(page)
    options = "Array.from(document.querySelector('[name=%s]').options, o => o.text)"
    assert chromium.run(options % "modality") == [
        "all",
        "RGB, optical (21)",
        "NIR, near infrared (4)",
        "SAR, radar (8)",
    ]
    choose(chromium, "modality", "sar")
    assert {key.split("/")[0] for key in shown(chromium)} == {"SEN1-2", "WHU-OPT-SAR"} and len(shown(chromium)) == 8
    choose(chromium, "modality", "")
    with_category = [sample for sample in example_samples() if sample.category]
    chromium.run(f"""(() => {{ const field = document.querySelector("[name=category]");
        field.value = {json.dumps(with_category[0].category)};
        field.dispatchEvent(new Event("input", {{bubbles: true}})); }})()""")
    same = [sample.key for sample in with_category if sample.category == with_category[0].category]
    assert sorted(shown(chromium)) == sorted(same)
    choose(chromium, "category", "-")
    assert len(shown(chromium)) == 21 - len(with_category)


@needs_browser
def test_the_address_keeps_the_filters_and_the_open_sample(chromium, page):
    chromium.open(page)
    choose(chromium, "weather", "fog")
    choose(chromium, "text", "farm a1")
    address = chromium.run("location.hash")
    chromium.run("document.querySelector('article:not([hidden]) button').click()")
    opened = chromium.run("location.hash")
    assert address == "#weather=fog&text=farm+a1" and opened == address + "&sample=weather%2Ffog%2Fa1"

    for place, is_open in ((address, False), (opened, True)):
        chromium.open(page)
        chromium.run(f"location.hash = {json.dumps(place)}")
        chromium.until(f"document.querySelector('dialog').open === {json.dumps(is_open)}")
        chromium.until("document.querySelectorAll('article:not([hidden])').length === 1")
        assert shown(chromium) == ["weather/fog/a1"]

    chromium.open(page)
    chromium.run("location.hash = '#sample=nothing&weather=snow&strange=1'")
    chromium.until("location.hash === '#weather=snow'")
    assert {key.split("/")[1] for key in shown(chromium)} == {"snowy"} and chromium.problems == []
    chromium.run("location.hash = '#weather=snow&subset=<b>Atlantis'")  # a choice of another page
    chromium.until("document.querySelectorAll('article:not([hidden])').length === 0")
    assert shown(chromium) == [] and chromium.run("document.querySelector('[name=subset]').value") == "<b>Atlantis"


@needs_browser
def test_a_sample_is_enlarged_and_a_divider_swipes_between_its_images(chromium, page):
    chromium.open(page)
    choose(chromium, "subset", "WHU-OPT-SAR")
    chromium.run("document.querySelector('#WHU-OPT-SAR').scrollIntoView()")
    chromium.run("Array.from(document.querySelectorAll('article:not([hidden]) .tools button'))[3].focus()")
    key = chromium.run("document.activeElement.closest('article').querySelector('h3').textContent")
    chromium.press("Enter")
    state = """(d => ({open: d.open, key: d.querySelector('h2').textContent,
        images: Array.from(d.querySelectorAll('.stage img'), i => i.alt.slice(0, 3)),
        clip: getComputedStyle(d.querySelector('.over') ?? d).clipPath, focus: document.activeElement.type,
        text: d.querySelector('.text').textContent}))(document.querySelector('dialog'))"""
    dialog = chromium.run(state)
    assert dialog["open"] and dialog["key"] == key and dialog["images"] == ["RGB", "SAR"]
    assert dialog["clip"] == "inset(0px 0px 0px 50%)" and dialog["focus"] == "range"
    assert "a nir view" in dialog["text"] and "a sar view" in dialog["text"]

    for _ in range(3):
        chromium.press("ArrowRight")
    assert chromium.run(state)["clip"] == "inset(0px 0px 0px 53%)"
    box = chromium.run("(r => [r.left, r.top, r.width])(document.querySelector('.stage').getBoundingClientRect())")
    left, top, width = box
    for kind, place in (("mousePressed", 0.9), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
        x, y = left + place * width, top + 20
        chromium.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    assert chromium.run(state)["clip"] == "inset(0px 0px 0px 25%)"

    choice = (
        "(s => { s.value = '1'; s.dispatchEvent(new Event('change')); })(document.querySelectorAll('.swipe select')[0])"
    )
    chromium.run(choice)
    assert chromium.run(state)["images"] == ["NIR", "SAR"]
    names = [name for role, name in chromium.accessible() if role in ("dialog", "slider", "combobox")]
    assert names == [key, "Left image", "Divider between the two images", "Right image"]

    chromium.press("Escape")
    assert not chromium.run(state)["open"]
    assert chromium.run("document.activeElement.closest('article').querySelector('h3').textContent") == key
    chromium.until("!location.hash.includes('sample=')")


@needs_browser
def test_the_arrows_lead_to_the_samples_that_the_filters_leave(chromium, page):
    chromium.open(page)
    choose(chromium, "weather", "night")
    keys = shown(chromium)
    chromium.run("document.querySelector('article:not([hidden]) .images').click()")
    key = "document.querySelector('dialog h2').textContent"
    assert chromium.run(key) == keys[0]
    chromium.press("ArrowRight")
    assert chromium.run(key) == keys[1]
    for _ in range(2):  # there is no third
        chromium.press("ArrowRight")
    assert chromium.run(key) == keys[1]
    chromium.press("ArrowLeft")
    assert chromium.run(key) == keys[0]


@needs_browser
def test_the_copied_code_loads_the_sample(chromium, page, monkeypatch):
    chromium.open(page)
    chromium.run(
        """navigator.clipboard.writeText = (text) => { (window.copied ??= []).push(text); return Promise.resolve(); }"""
    )
    chromium.run("""Array.from(document.querySelectorAll('article'))
        .find(a => a.querySelector('h3').textContent === 'SEN1-2/ROIs1158_spring_1_p1')
        .querySelectorAll('button').forEach(b => b.textContent.startsWith('Copy') && b.click())""")
    key, code = chromium.run("window.copied")
    assert key == "SEN1-2/ROIs1158_spring_1_p1"
    monkeypatch.chdir(page.parent)
    names: dict = {}
    exec(code, names)
    assert names["row"]["key"] == key and names["row"]["sar"].size == (64, 64)
    confirmations = (
        "Array.from(document.querySelectorAll('article button'), b => b.textContent).filter(t => t === 'Copied').length"
    )
    assert chromium.run(confirmations) == 2


@needs_browser
@pytest.mark.parametrize(("width", "beside"), [(390, False), (1400, True)])
def test_samples_come_before_the_legend_on_a_phone_and_beside_it_on_a_desk(chromium, page, width, beside):
    chromium.open(page, width, 800)
    top = "document.querySelector('%s').getBoundingClientRect().top"
    assert (chromium.run(top % ".overview") < chromium.run(top % "article") + 400) is beside
    assert chromium.run(top % "article") < (800 if beside else 700)
    order = [name for role, name in chromium.accessible() if role in ("main", "complementary", "heading")]
    assert order.index("SEN1-2") < order.index("Parts of a prompt")


@needs_browser
def test_the_next_page_keeps_the_filters(chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "IMAGES", 10)
    converted.write(tmp_path / "out", example_samples())
    first, second, *_ = write_preview(tmp_path / "out", pages=2).paths
    chromium.open(first)
    choose(chromium, "weather", "fog")
    chromium.follow("document.querySelector('nav a').click()")
    assert chromium.run("location.pathname") == str(second)
    assert chromium.run("document.querySelector('[name=weather]').value") == "fog"
    assert chromium.run("document.querySelector('nav').textContent").startswith("Page 2 of 2")
