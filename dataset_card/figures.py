"""The card's pictures, each made from the converted folder itself."""

from __future__ import annotations

from conversion import layout
from conversion.disk import write_file
from conversion.placed import Read
from dataset_card.charts import pairs_chart, prompts_chart
from dataset_card.sheets import choose, contact_sheet, strip
from dataset_card.statistics import Converted


def write_figures(converted: Converted, read: Read | None = None) -> list[str]:
    """Write the pictures to `assets/`.

    Args:
        converted: The folder.
        read: Reads bytes of shards (default: from the folder).

    Returns:
        Their paths within the folder, in the order of the card.
    """
    chosen = {subset: choose(converted.out, subset, read) for subset in converted.subsets}
    pictures = {
        layout.STRIP_FIGURE: strip(chosen),
        layout.PAIRS_FIGURE: pairs_chart(converted),
        layout.PROMPTS_FIGURE: prompts_chart(converted),
        **{layout.samples_figure(subset): contact_sheet(subset, samples) for subset, samples in chosen.items()},
    }
    drawn = {path: data for path, data in pictures.items() if data is not None}
    for path, data in drawn.items():
        write_file(converted.out / path, data)
    for old in layout.FIGURES - drawn.keys():
        (converted.out / old).unlink(missing_ok=True)  # of a subset that is gone
    return list(drawn)
