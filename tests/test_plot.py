"""A row drawn: with matplotlib, and as HTML in a notebook. What is drawn is what the row holds."""

from __future__ import annotations

import html.parser
import io
import itertools
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import mmm_rs
from mmm_rs_cli import notebook
from mmm_rs_cli.parts import PARTS
from mmm_rs_cli.plot import plot
from tests import converted

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
KEY = "WHU-OPT-SAR/NH49E001013_1_0"  # rgb, nir, sar
PROMPT = "Satellite imagery, Ultra-high precision resolution, night ,built-up,a city, lit by $5 lamps$ <b>&, GF2,   GID"
MARKED = {"Satellite imagery": "image_kind", "night": "weather", "built-up": "category", "GF2": "satellite"}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plot") / "out"
    hostile = converted.Sample("GID/a", {"rgb": PROMPT}, "a city", images={"rgb": converted.picture("x", 1)})
    converted.write(folder, [*converted.samples(), hostile])
    return folder


def words(figure) -> list[tuple[str, str]]:
    """(text, colour) of what is written on a figure, in order."""
    return [(text.get_text(), text.get_color()) for text in figure.texts]


def test_each_modality_is_drawn_with_its_pixels_and_its_name(out):
    row = mmm_rs.get(out, KEY)
    figure = plot(row)
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(drawn) == 3
    for modality, pixels in zip(mmm_rs.MODALITIES, drawn, strict=True):
        assert np.array_equal(pixels, np.asarray(row[modality].convert("RGB")))
    texts = [text for text, _ in words(figure)]
    assert texts[:2] == [KEY, "low resolution (from metres) · 5 m"]
    assert texts[2:5] == ["RGB, optical", "NIR, near infrared", "SAR, radar"]


def test_a_modality_that_is_missing_says_so(out):
    figure = plot(mmm_rs.get(out, "WHU-OPT-SAR/NH49E001013_0_0"))
    assert [axes.texts[0].get_text() for axes in figure.axes if not axes.images] == ["no SAR"]


def test_the_prompt_stands_there_with_its_parts_in_their_colours(out):
    figure = plot(mmm_rs.get(out, "GID/a"))
    written = words(figure)[3:]  # behind key, labels and the name of the modality
    assert "".join(text for text, _ in written).split() == PROMPT.split()
    for text, field in MARKED.items():
        colours = {colour for word, colour in written if word.strip() in text.split()}
        assert colours == {PARTS[field].colour}, text


def test_words_neither_overlap_nor_leave_the_figure(out):
    figure = plot(mmm_rs.get(out, "GID/a"))
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text().strip()]
    width, height = figure.bbox.size
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    for first, second in itertools.pairwise(boxes[3:]):
        below = second.x0 < first.x0  # a new line
        assert below or second.x0 >= first.x1 - 1.5  # pixels


def test_both_doors_give_the_same_picture(out):
    tars = [str(path) for path in (out / "data/WHU-OPT-SAR").glob("*.tar")]
    shards = datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=True)
    plain = {row["__key__"]: row for row in shards.cast(mmm_rs.wds_features("WHU-OPT-SAR"))}
    encoded = mmm_rs.get(out, KEY, decode=False)
    pictures = []
    for row in (mmm_rs.get(out, KEY), encoded, plain[KEY]):
        buffer = io.BytesIO()
        plot(row).savefig(buffer, format="png")
        pictures.append(np.asarray(Image.open(buffer)))
    assert all(np.array_equal(pictures[0], picture) for picture in pictures[1:])


def test_a_figure_can_be_given(out):
    from matplotlib.figure import Figure

    figure = Figure()
    assert plot(mmm_rs.get(out, KEY), figure) is figure and len(figure.axes) == 3


def test_notebooks_show_the_figure_without_pyplot(out):
    code = f"""if True:
        import sys, mmm_rs
        from mmm_rs_cli.plot import plot
        picture = plot(mmm_rs.get({str(out)!r}, {KEY!r}))._repr_png_()
        assert picture.startswith(b"\\x89PNG") and "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("row", [{}, {"key": "a"}, {"image": 1, "text": "b"}])
def test_what_is_not_a_row_is_refused(row):
    with pytest.raises(ValueError, match="not a row of MMM-RS"):
        plot(row)


def test_of_what_is_not_one_row_only_the_type_is_named(out):
    rows = mmm_rs.load_dataset("GID", out, split="train", streaming=True)
    row = next(iter(rows))
    batch = {name: [value, value] for name, value in row.items()}
    plain = {"__key__": ["a", "b"], "jpg": [row["rgb"], row["rgb"]]}
    for value, named in (
        (rows, "you gave an IterableDataset: plot(next(iter(data)))"),
        ([row, row], "you gave a list: plot(next(iter(data)))"),
        (batch, "you gave a batch of rows: "),
        (plain, "you gave a batch of rows: "),
    ):
        with pytest.raises(ValueError, match="plot takes one row; ") as error:
            plot(value)
        assert named in str(error.value) and len(str(error.value)) < 120


def test_without_matplotlib_the_remedy_is_named(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'mmm-rs\[plot\]'"):
        plot(mmm_rs.get(out, KEY))


def test_show_draws_a_sample_to_a_file(out, run, tmp_path):
    path = tmp_path / "sample.png"
    code, _, errors = run("show", out, KEY, "--plot", path)
    assert (code, errors) == (0, [f"{path}: written"])
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height
    for refused, says in (
        (path, "exists"),
        (out / "sample.png", "is in the converted folder"),
        (tmp_path / "x.y", "y"),
    ):
        code, _, errors = run("show", out, KEY, "--plot", refused)
        assert code == 2 and len(errors) == 1 and says in errors[0]
    assert not (out / "sample.png").exists() and not (tmp_path / "x.y").exists()


# --- in a notebook ---------------------------------------------------------------------------------------------------


class Text(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.images = "", 0
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.images += tag == "img"
        assert tag not in ("b", "script") or not attributes


def test_a_row_as_html_has_its_images_and_its_prompt_letter_by_letter(out):
    read = Text(notebook.html(mmm_rs.get(out, "GID/a")))
    assert PROMPT in read.text and "GID/a" in read.text and read.images == 1
    assert Text(notebook.html(mmm_rs.get(out, KEY))).images == 3


def test_ipython_shows_rows_as_pictures_and_other_dictionaries_as_before(out):
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactive.InteractiveShell()
    shell.run_line_magic("load_ext", "mmm_rs_cli.notebook")
    data, _ = shell.display_formatter.format(mmm_rs.get(out, "GID/a"))
    assert "<img" in data["text/html"]
    other, _ = shell.display_formatter.format({"key": "a", "subset": "b"})
    assert other == {"text/plain": "{'key': 'a', 'subset': 'b'}"}
    shell.run_line_magic("unload_ext", "mmm_rs_cli.notebook")
    data, _ = shell.display_formatter.format(mmm_rs.get(out, "GID/a"))
    assert "text/html" not in data


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_rows_in_the_format_of_numpy_or_torch_are_shown_alike(out, form):
    if form == "torch":
        pytest.importorskip("torch")
    stream = mmm_rs.load_dataset("SEN1-2", str(out), streaming=True)
    for row, formatted in zip(stream, stream.with_format(form), strict=True):
        read, expected = Text(notebook.html(formatted)), Text(notebook.html(row))
        assert read.text == expected.text and notebook.html(formatted).count("<img") == notebook.html(row).count("<img")


def test_a_row_whose_images_were_transformed_says_so(out):
    row = mmm_rs.get(out, "GID/a")
    with pytest.raises(ValueError, match=r"an array of float32 of the shape \(4, 5, 3\)"):
        notebook.html({**row, "rgb": np.zeros((4, 5, 3), np.float32)})
