"""Forms of annotation files that are recognised although they cannot be used, so that a message can name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from conversion.annotations.shape import is_by_columns

_IMAGE = re.compile(r"\.(?:jpe?g|png|tiff?)$", re.IGNORECASE)
SERVER_ERRORS = frozenset(("error", "errno", "errorcode", "error_code", "errormsg", "error_msg", "errmsg"))


class OtherForm(NamedTuple):
    """A form that cannot be used."""

    name: str
    remedy: str
    fits: Callable[[dict[str, Any]], bool]  # whether an object, the first of a file or of one of its lists, shows it


def _has(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: all(name in row for name in names)


def _is_server_error(row: dict[str, Any]) -> bool:
    images = any(isinstance(value, str) and _IMAGE.search(value) for value in row.values())
    return bool(SERVER_ERRORS & row.keys()) and not images


_AS_RECORDS = 'Write it as one record per image, with pandas `to_json(orient="records")`'
BY_COLUMNS = OtherForm("a table by columns", _AS_RECORDS, is_by_columns)
OTHER_FORMS = (
    BY_COLUMNS,
    OtherForm("a table of pandas, split into columns and data", _AS_RECORDS, _has("columns", "data")),
    OtherForm("a page of rows of the Hugging Face dataset viewer", "Download the file itself", _has("row_idx", "row")),
    OtherForm(
        "questions and answers (VQA), which are not prompts", "Give the file of captions", _has("question", "answer")
    ),
    OtherForm("questions (VQA), which are not prompts", "Give the file of captions", _has("question", "question_id")),
    OtherForm("COCO's boxes or masks, without captions", "Give the file of captions", _has("image_id", "bbox")),
    OtherForm("COCO's masks, without captions", "Give the file of captions", _has("image_id", "segmentation")),
    OtherForm("outlines drawn with LabelMe, without prompts", "Give the file of prompts", _has("shapes", "imagePath")),
    OtherForm("an export of Label Studio", "Write it as one record per image", _has("data", "annotations")),
    OtherForm("GeoJSON", "Give the file of prompts", _has("type", "features")),
    OtherForm(
        "the message of a server that did not send the file",
        "Download it again",
        _is_server_error,
    ),
)
LISTS = OtherForm(
    "lists without keys", 'Write each record as an object, {"image": ..., "prompt": ...}', lambda row: False
)


def other_form(values: Sequence[Any]) -> OtherForm | None:
    """The form that the first values of a file show; None for one that is not known."""
    for form in OTHER_FORMS:
        if any(isinstance(value, dict) and form.fits(value) for value in values):
            return form
    return LISTS if any(isinstance(value, list) for value in values) else None
