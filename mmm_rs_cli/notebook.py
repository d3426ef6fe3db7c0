"""Rows as pictures in a notebook. After `%load_ext mmm_rs_cli.notebook` Jupyter shows a row of the dataset with its
images side by side and the parts of its prompts in colour; other dictionaries are shown as before."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from PIL import Image

from conversion.prompts import marked
from mmm_rs_cli.parts import PARTS
from mmm_rs_cli.rows import View, is_row, read_row

SIDE = 320  # pixels of an image's longer side, at most
LONGEST = 1_000  # characters of a prompt


def load_ipython_extension(ipython: Any) -> None:
    """What `%load_ext mmm_rs_cli.notebook` calls."""
    ipython.display_formatter.formatters["text/html"].for_type(dict, _row_html)


def unload_ipython_extension(ipython: Any) -> None:
    """What `%unload_ext mmm_rs_cli.notebook` calls."""
    ipython.display_formatter.formatters["text/html"].pop(dict, None)


def _row_html(value: dict) -> str | None:
    """None leaves a dictionary to IPython."""
    with contextlib.suppress(ValueError):  # its images were transformed
        return html(value) if is_row(value) else None
    return None


def html(row: Mapping[str, Any]) -> str:
    """A row as HTML.

    Args:
        row: A row of the builder or of `mmm_rs.get`, or of the shards loaded without code.

    Raises:
        ValueError: It is not a row of this dataset.
    """
    shown = read_row(row)
    texts = "".join(
        f'<p style="margin: .4em 0 0"><b>{modalities}</b> {_marked(prompt)}</p>' for modalities, prompt in shown.prompts
    )
    return (
        f'<div style="max-width: {(SIDE + 8) * max(2, len(shown.views))}px"><b>{escape(shown.key)}</b><br>'
        f"<small>{escape(' · '.join(shown.labels))}</small>"
        f'<div style="display: flex; gap: 8px">{"".join(map(_figure, shown.views))}</div>{texts}</div>'
    )


def _figure(view: View) -> str:
    name = view.modality.upper()
    picture = f"<i>no {name}</i>"
    if view.image is not None:
        small = view.image.convert("RGB")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        data = base64.b64encode(buffer.getvalue()).decode()
        picture = (
            f'<img alt="{name}" width="{small.width}" height="{small.height}" src="data:image/jpeg;base64,{data}">'
        )
    return f'<figure style="margin: 0">{picture}<figcaption><small>{name}</small></figcaption></figure>'


def _marked(prompt: str) -> str:
    more = f" <small>… and {len(prompt) - LONGEST:,} more characters</small>" if len(prompt) > LONGEST else ""
    return "".join(_part(*part) for part in marked(prompt[:LONGEST])) + more


def _part(field: str | None, text: str) -> str:
    if field is None:
        return escape(text)
    part = PARTS[field]
    return f'<span title="{part.name}" style="border-bottom: 2px solid {part.colour}">{escape(text)}</span>'
