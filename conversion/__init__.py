"""From the MMM-RS release to WebDataset shards.

The way of the data, a module a step: `release` -> `archives` -> `annotations`, `prompts` -> `alignment`, `names` ->
`plan` -> `images`, `shards` -> `manifest`, `report`; `job` runs them, `inspection` shows, `verification`
proves. `exports` continues from a converted dataset.
"""

from typing import Any  # no `from __future__ import annotations` here: it would hide the module of that name

__all__ = ["Selection", "convert", "export", "inspect", "verify"]
__version__ = "0.1.0"

_HOMES = {
    "convert": "job",
    "export": "exports.job",
    "inspect": "inspection",
    "Selection": "exports.selection",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    """Import a function's module when it is asked for: together they take seconds, which `mmm-rs --help` should not."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"conversion.{_HOMES[name]}"), name)
    raise AttributeError(name)
