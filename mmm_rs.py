"""MMM-RS: what the dataset is, and a builder that reads it with `datasets`.

MMM-RS (multi-modal, multi-GSD, multi-scene remote sensing; arXiv 2410.22362, NeurIPS 2024 Datasets and Benchmarks)
pairs remote sensing images with text prompts. This module is the one place that defines its subsets and its features.

    import mmm_rs
    samples = mmm_rs.load_dataset("SEN1-2", "path/or/hf://url", split="train", streaming=True)

The first part is what users call: subsets, features, the builder, `load_dataset`, `get`, `webdataset`. The second part
is how it reads:
- The manifest says which shards there are and how many samples each holds; the index says where each image is. So a
  row is made of an index row and byte ranges of a shard. No tar is parsed, and nothing can go missing unnoticed.
- Filters are applied to the index. Only the images of matching rows and chosen modalities are read.
- The rows of a split are cut into equal *pieces*, the unit that `datasets` gives to workers and nodes and shuffles.
- Images go from the file straight into Arrow's buffers; no row is handled in Python before it is asked for.

This one file can be handed on alone, next to the data: it imports nothing of the project and reads everything by
itself, remote folders simply. Installed packages can announce faster files (entry points of the group `mmm_rs.files`)
and readers of unconverted releases (group `mmm_rs.sources`). It is a module for every version of `datasets` from 2.21,
and a loading script where those still exist (before 4.0), whose import scanner wants one plain `import` per line.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import errno
import functools
import hashlib
import html
import importlib
import importlib.metadata
import io
import itertools
import json
import mmap
import operator
import os
import pickle
import re
import shlex
import shutil
import tempfile
import threading
import urllib.parse
import weakref
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol, TypeVar

import datasets
import fsspec
import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = [
    "CITATION",
    "FIELDS",
    "GSD_LEVELS",
    "MMMRS",
    "MODALITIES",
    "SUBSETS",
    "WEATHERS",
    "MMMRSConfig",
    "ReadError",
    "features",
    "get",
    "info",
    "load_dataset",
    "webdataset",
]


def __dir__() -> list[str]:
    """The names that tab completion shows. What else is here serves the other modules of the project."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


# --- what the dataset is ---------------------------------------------------------------------------------------------

FORMAT_VERSION = "1.1"  # of what is written: shards, index, manifest. A reader refuses another major version

MODALITIES = ("rgb", "nir", "sar")  # optical, near infrared, radar; everywhere in this order
GSD_LEVELS = ("ultra_high", "high", "ordinary", "low", "ultra_low")  # finest first; labels, in this order
WEATHERS = ("fog", "night", "snow")

PROMPT_COLUMNS = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}


@dataclass(frozen=True)
class Subset:
    """One of the ten parts of the release."""

    name: str
    modalities: tuple[str, ...]  # in the order of MODALITIES


CITATION = """\
@inproceedings{luo2024mmmrs,
  title     = {{MMM-RS}: A Multi-modal, Multi-{GSD}, Multi-scene Remote Sensing Dataset and Benchmark for
               Text-to-Image Generation},
  author    = {Luo, Jialin and Wang, Yuanzhi and Gu, Ziqi and Qiu, Yide and Yao, Shuaizhen and Wang, Fuyun and
               Xu, Chunyan and Zhang, Wenhua and Wang, Dan and Cui, Zhen},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year      = {2024},
  note      = {arXiv:2410.22362}
}
"""
HOMEPAGE = "https://github.com/ljl5261/MMM-RS"
LICENCE = "CC BY-NC-SA (upstream's badge names no version); the sources' own terms also apply"

_SUBSETS = (
    Subset("weather", ("rgb",)),
    Subset("WHU-OPT-SAR", ("rgb", "nir", "sar")),
    Subset("SEN1-2", ("rgb", "sar")),
    Subset("Inria", ("rgb",)),
    Subset("fMoW", ("rgb",)),
    Subset("TGRS-HRRSD", ("rgb",)),
    Subset("GID", ("rgb",)),
    Subset("NaSC-TG2", ("rgb",)),
    Subset("MRSSC2.0", ("rgb",)),
    Subset("HRSC2016", ("rgb",)),
)
SUBSETS: Mapping[str, Subset] = {subset.name: subset for subset in _SUBSETS}
ALL = "all"  # the config that holds every subset

# Every column of the builder: what it is, its unit, where it comes from.
FIELDS = {
    "key": "Identifies the sample, from the source's file name: `<Subset>/<path>`. The same in every conversion.",
    "subset": "The subset's name, as in `SUBSETS`.",
    "rgb": "The optical image, the release's bytes unchanged (512 x 512 pixels but for a few).",
    "prompt": "The prompt of the optical image, the release's text unchanged.",
    "nir": "The near infrared image: mostly one band, stored as upstream did.",
    "nir_prompt": "The prompt of the near infrared image.",
    "sar": "The radar image: mostly one band, stored as upstream did.",
    "sar_prompt": "The prompt of the radar image.",
    "caption": "The part of the prompt that a vision-language model wrote; a sentence about the scene.",
    "category": "The scene's class: the record's own, else a part of the prompt.",
    "satellite": "The satellite or map service that the prompt names.",
    "weather": "The weather or light that the prompt names: fog, night or snow.",
    "gsd_level": "The class of GSD that the prompt states; without one, derived from `gsd`. "
    "ultra_high < 0.5 m, high < 1 m, ordinary < 5 m, low from 5 m, ultra_low 100 m.",
    "gsd_level_derived": "Whether `gsd_level` comes from metres and not from the prompt.",
    "gsd": "Ground sample distance, metres per pixel: the record's; for Inria by the file's name.",
    "cloud_cover": "Cloud cover as the record has it, in the source's unit.",
    "annotation": "The release's records verbatim, JSON text by modality.",
}


def subset_names(config: str | None) -> tuple[str, ...]:
    """The subsets of a config: itself, or all ten for `all`. Raises ValueError for an unknown name."""
    if config == ALL:
        return tuple(SUBSETS)
    if isinstance(config, (list, tuple, set, dict)):
        raise ValueError(
            f"{config!r}: give one config at a time. To read several, mix their datasets with "
            'datasets.interleave_datasets, or give "all" with filters={"subset": [...]}'
        )
    if config is None or config not in SUBSETS:
        hint = did_you_mean(config, [*SUBSETS, ALL])
        raise ValueError(f"{config!r}: no such subset.{hint} The configs are {', '.join([*SUBSETS, ALL])}")
    return (config,)


def check_order(call: str, config: Any, data_dir: Any) -> None:
    """Raises ValueError if config and folder were given to a function in the wrong order."""
    names = (*SUBSETS, ALL)
    if isinstance(data_dir, str) and data_dir in names and config not in names:
        raise ValueError(f"the config comes first: {call}({data_dir!r}, {config!r})")


def config_modalities(config: str) -> tuple[str, ...]:
    """The modalities that samples of a config can have, in the order rgb, nir, sar."""
    modalities = {modality for name in subset_names(config) for modality in SUBSETS[name].modalities}
    return tuple(modality for modality in MODALITIES if modality in modalities)


def chosen_modalities(config: str, modalities: str | Sequence[str] | None) -> tuple[str, ...]:
    """`modalities` in order, None for all that the config has. Raises ValueError for others than these, or none."""
    possible = config_modalities(config)
    if modalities is None:
        return possible
    if isinstance(modalities, str):
        modalities = [modalities]
    if not modalities or (unknown := set(modalities) - set(possible)):
        hint = did_you_mean(min(unknown, key=str), possible) if modalities else ""
        raise ValueError(
            f"modalities={modalities!r}: give one or a list of some of {list(possible)}, which {config} has.{hint}"
        )
    return tuple(modality for modality in possible if modality in modalities)


# --- features --------------------------------------------------------------------------------------------------------


def features(config: str, modalities: str | Sequence[str] | None = None, decode: bool = True) -> datasets.Features:
    """The builder's columns for a config. `FIELDS` says what each of them is.

    Args:
        config: A subset's name, or "all".
        modalities: Only the columns of these modalities; None for all that the config has.
        decode: Whether images are `PIL.Image`; otherwise they are the file's bytes.

    Returns:
        The columns and their types, in the order of a row.

    Raises:
        ValueError: `config` does not exist, or does not have all of `modalities`.
    """
    chosen = chosen_modalities(config, modalities)
    text = datasets.Value("string")
    columns: dict[str, object] = {"key": text, "subset": text}
    for modality in chosen:
        columns[modality] = datasets.Image(decode=decode)
        columns[PROMPT_COLUMNS[modality]] = text
    columns |= {
        "caption": text,
        "category": text,
        "satellite": text,
        "weather": datasets.ClassLabel(names=list(WEATHERS)),
        "gsd_level": datasets.ClassLabel(names=list(GSD_LEVELS)),
        "gsd_level_derived": datasets.Value("bool"),
        "gsd": datasets.Value("float64"),
        "cloud_cover": datasets.Value("float64"),
        "annotation": {modality: text for modality in MODALITIES},  # alike for all, so that configs can be mixed
    }
    return datasets.Features(columns)


# --- the builder -----------------------------------------------------------------------------------------------------

logger = datasets.utils.logging.get_logger(__name__)


class ReadError(datasets.exceptions.DatasetGenerationError):
    """Stored data are not what the manifest or the index says, or cannot be read.

    Names the file, what was expected and what came. `datasets` passes it on as it is.
    """


@dataclass
class MMMRSConfig(datasets.BuilderConfig):
    """One subset, or all of them, and what to read of it.

    Args:
        modalities: Read only these columns and bytes, a list of some of rgb, nir, sar. None for all that there are.
        filters: The rows to read, by the columns of the index: a dictionary such as `{"gsd_level": "low", "category":
            ["airport", "port"]}`; or, in the form that `datasets` and pyarrow use for Parquet, one comparison `("gsd",
            "<", 1)`, a list of them that must all hold, or a list of such lists, one of which must hold; or a
            `pyarrow.compute` expression. The operations are == != < <= > >= in, and not in. Null is unequal to every
            value: `("weather", "!=", "fog")` keeps the rows without weather. None stands for null.
            Labels are those of the first of `modalities` that a sample has.
        contains: A text, or several, that must all occur in a prompt of the chosen modalities. Case does not matter.
        on_error: "raise" an error for a sample whose bytes are damaged or missing, or "skip" it and list it at the end.
        decode: Give images as `PIL.Image`. False: as `{"bytes": ..., "path": ...}`.
        check: Compare each image's CRC with the index. None: where that costs less than 5 % of the time, which is over
            a network, with `decode`, and with `on_error="skip"`.
        digest: Of the shards. Filled in by the builder, so that data converted again get a cache of their own.
    """

    modalities: str | Sequence[str] | None = None
    filters: Any = None
    contains: str | Sequence[str] | None = None
    on_error: str = "raise"
    decode: bool = True
    check: bool | None = None
    digest: str | None = None


class MMMRS(datasets.ArrowBasedBuilder):
    """MMM-RS from a converted folder (local, `hf://` or any fsspec URL), or from the release itself, as `data_dir`.

    It takes the fields of MMMRSConfig, what builders of `datasets` take, and `read_ahead`,
    `local_cache` and `cache_limit` as `load_dataset` does.
    """

    VERSION = datasets.Version(f"{FORMAT_VERSION}.0")
    BUILDER_CONFIG_CLASS = MMMRSConfig
    BUILDER_CONFIGS: ClassVar = [
        MMMRSConfig(name=name, version=datasets.Version(f"{FORMAT_VERSION}.0"), description=f"{name} of MMM-RS")
        for name in [*SUBSETS, ALL]
    ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A card beside this script describes the shards as they load without code, with other columns than these.
        kwargs.pop("info", None)
        config = kwargs.get("config_name")
        subset_names(config)  # a wrong name is reported before a wrong folder
        settings = {name: kwargs.pop(name, None) for name in ("read_ahead", "local_cache", "cache_limit")}
        options, token = kwargs.get("storage_options"), kwargs.get("token")
        self._source = open_source(kwargs.get("data_dir"), options, token, **settings)
        self._subsets = [name for name in subset_names(config) if name in self._source.subsets]
        if not self._subsets:
            raise ReadError(f"{self._source}: holds no {config}. It has {', '.join(self._source.subsets)}")
        chosen = chosen_modalities(str(config), kwargs.get("modalities"))
        self._selection = select(kwargs.get("filters"), kwargs.get("contains"), chosen)
        self._slice: tuple[str, list[Piece]] | None = None
        kwargs["digest"] = self._source.digest(self._subsets)
        kwargs["storage_options"] = dict(options or {})  # `datasets` adds to it
        super().__init__(*args, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        config = self.config
        if config.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error={config.on_error!r}: give "raise" or "skip"')
        self.skipped: list[Skipped] = []
        return datasets.DatasetInfo(
            description=f"{config.description}. Shards: {config.digest}",
            features=features(config.name, config.modalities, config.decode),
            homepage=HOMEPAGE,
            license=LICENCE,
            citation=CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if self._slice:
            name, pieces = self._slice
            return [datasets.SplitGenerator(name=name, gen_kwargs={"pieces": pieces})]
        generators, expected = [], datasets.SplitDict()
        for split in self._source.splits(self._subsets):
            pieces = self.pieces(split)
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"pieces": pieces}))
            expected.add(datasets.SplitInfo(name=split, num_examples=sum(map(row_count, pieces))))
        if self._source.counted and self.config.on_error == "raise":
            self.info.splits = expected  # `datasets` compares it with what it has counted
        if self._source.counted and not expected.total_num_examples:
            options = {name: getattr(self.config, name) for name in ("filters", "contains")}
            logger.warning(f"{self.config.name}: {no_match(self._source, self._subsets, self._selection, options)}")
        return generators

    def _generate_tables(self, pieces: Sequence[Piece]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for number, read in enumerate(self.tables(pieces)):
            yield (read.piece, number), read.table

    def pieces(self, split: str) -> list[Piece]:
        """The matching rows of a split, cut into pieces that are equal to within one row.

        Args:
            split: "train" or "validation".

        Returns:
            The pieces in the order of the shards: the units to shuffle and to share between processes. `row_count`
            counts the rows of one. They can be pickled.

        Raises:
            ReadError: The index cannot be read.
        """
        return cut(self._segments(split))

    def _segments(self, split: str) -> list[Segment]:
        source = self._source
        return [segment for name in self._subsets for segment in source.segments(name, split, self._selection)]

    def as_streaming_dataset(self, split: Any = None, base_path: str | None = None) -> Any:
        """As in `datasets`, which streams no slices; here `split="train[:10%]"` reads only what it selects.

        Args:
            split: "train" or "validation"; a slice of one, such as "train[500:1000]", "train[-10%:]" or a
                `datasets.ReadInstruction`; several of them joined by "+". None for a dictionary of all splits.
            base_path: As in `datasets`.

        Raises:
            ValueError: There is no such split or slice.
            ReadError: The data cannot be read.
        """
        if isinstance(split, list | tuple):
            raise ValueError(
                f"split={split!r}: give one text, for example {'+'.join(map(str, split))!r}, or None for a dictionary "
                "of all splits"
            )
        if not isinstance(split, datasets.ReadInstruction) and "[" not in str(split):
            return super().as_streaming_dataset(split, base_path)
        name = split.to_spec() if isinstance(split, datasets.ReadInstruction) else str(split)
        self._slice = name, cut(self._sliced(split))
        try:
            return super().as_streaming_dataset(name, base_path)
        finally:
            self._slice = None

    def _sliced(self, split: Any) -> list[Segment]:
        """The rows that a slice selects."""
        if not self._source.counted:
            raise ValueError(
                f"split={str(split)!r}: a slice needs to know how many samples there are. Convert the release"
            )
        return sliced({name: self._segments(name) for name in self._source.splits(self._subsets)}, split)

    def tables(self, pieces: Sequence[Piece], piece: int = 0, row: int = 0) -> Generator[RowsRead]:
        """Read pieces as Arrow tables, in order. Over a network, coming tables are fetched while one is worked on.

        Args:
            pieces: Some of what `pieces` returned, in any order.
            piece: Begin at this position of `pieces`,
            row: and at this row of it.

        Returns:
            An iterator of tables of a few MB in the columns of `info.features`, each with its position. To stop early,
            close it.

        Raises:
            ReadError: A sample cannot be read and `on_error` is "raise".
        """
        config, source = self.config, self._source
        skipped: list[Skipped] | None = [] if config.on_error == "skip" else None
        check = config.check
        if check is None:
            check = source.remote or config.decode or skipped is not None

        def read(segments: Iterator[Segment]) -> Iterator[tuple[int, pa.Table, Sequence[int]]]:
            return source.tables(segments, self.info.features, self._selection, check, skipped)

        try:
            yield from rows_of_pieces(pieces, piece, row, read)
        finally:
            if skipped:
                self._report(skipped)

    def _report(self, skipped: list[Skipped]) -> None:
        self.skipped += skipped
        logger.warning(f"{self.config.name}: {len(skipped)} samples skipped: {listing(skipped)}")

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """As in `datasets`. Warns of skipped samples, also if another process or an earlier run skipped them."""
        counted = self._source.counted and self.config.on_error == "skip"
        for split, info in (self.info.splits or {}).items() if counted else ():
            expected = sum(map(row_count, self.pieces(split)))
            if info.num_examples < expected:
                logger.warning(
                    f"{self.config.name}: {info.num_examples} of {expected} samples of {split} are there, the others "
                    f"were skipped. Once their shards are fixed, delete {self.cache_dir} to get them too"
                )
        return super().as_dataset(*args, **kwargs)

    # The next two are private in `datasets`. The last section of this file says what they are for.

    def _as_dataset(self, split: Any = "train", **kwargs: Any) -> Any:
        empty = _empty_dataset(self.info, split)
        return super()._as_dataset(split, **kwargs) if empty is None else empty

    def _get_examples_iterable_for_split(self, split_generator: datasets.SplitGenerator) -> Any:
        try:
            return _piece_examples(self, split_generator.gen_kwargs["pieces"])
        except (ImportError, AttributeError, TypeError) as error:
            _warn_of_slow_rows(error)
            return super()._get_examples_iterable_for_split(split_generator)


# --- load_dataset, get, webdataset -----------------------------------------------------------------------------------


def load_dataset(
    config: str,
    data_dir: str | os.PathLike[str],
    split: str | None = "train",
    streaming: bool = False,
    *,
    modalities: str | Sequence[str] | None = None,
    filters: Any = None,
    contains: str | Sequence[str] | None = None,
    on_error: str = "raise",
    decode: bool = True,
    check: bool | None = None,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
    read_ahead: int | None = None,
    local_cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> Any:
    """Load a config as a dataset of the `datasets` library.

    Args:
        config: A subset's name, or "all".
        data_dir: A converted folder: a path, `hf://datasets/org/MMM-RS` or any fsspec URL. Or the release itself.
        split: "train" or "validation", or a slice such as "train[:10%]". None for a dictionary of all splits.
        streaming: Read rows when they are asked for. Otherwise everything that was selected is copied to a cache first.
        modalities: Read only these columns and bytes, a list of some of rgb, nir, sar. None for all that there are.
        filters: The rows to read, for example `[("gsd_level", "==", "low"), ("category", "in", ["airport"])]`; see
            `MMMRSConfig`.
        contains: A text, or several, that must all occur in a prompt of the chosen modalities. Case does not matter.
        on_error: "raise" an error for a sample whose bytes are damaged or missing, or "skip" it and list it at the end.
        decode: Give images as `PIL.Image`. False: as `{"bytes": ..., "path": ...}`.
        check: Compare each image's CRC with the index. None: where that costs little time.
        cache_dir: Where the cache goes. None for the default of `datasets`.
        num_proc: The number of processes that fill the cache.
        revision: A branch, tag or commit, for a dataset on the hub: the same as `hf://datasets/org/MMM-RS@revision`.
        token: For private repositories of the hub: a token; True or None for the saved one; False for none.
        storage_options: Options for fsspec's file system.
        read_ahead: Bytes of images that are fetched over a network before they are needed. None for 48 MiB, which fills
            a fast line.
        local_cache: A folder on a disk of this node, in which what was fetched over a network is kept for the next
            epoch. The node's processes share it. None for that of the environment variable MMM_RS_CACHE, or none.
            Folders on a local path are read where they are, without it.
        cache_limit: What it may take up, in bytes or as a text such as "200GB": then the shards that were not used for
            longest are removed. None for MMM_RS_CACHE_LIMIT, or until the disk is full.

    Returns:
        An `IterableDataset` if `streaming`, otherwise a `Dataset`; a dictionary of them for `split=None`.

    Raises:
        ValueError: An argument does not fit.
        ReadError: The data cannot be read, or are not what the manifest and the index say.
    """
    check_order("load_dataset", config, data_dir)
    if revision is not None:
        data_dir = dataset_address(data_dir, revision)
    make = functools.partial(
        MMMRS,
        config_name=config,
        data_dir=data_dir and os.fspath(data_dir),
        token=token,
        storage_options=storage_options,
        modalities=modalities,
        filters=filters,
        contains=contains,
        on_error=on_error,
        decode=decode,
        check=check,
        read_ahead=read_ahead,
        local_cache=local_cache,
        cache_limit=cache_limit,
    )
    if streaming:
        return _streaming_builder(make, cache_dir).as_streaming_dataset(split=split)
    builder = make(cache_dir=cache_dir)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def get(
    data_dir: str | os.PathLike[str],
    key: str,
    *,
    modalities: str | Sequence[str] | None = None,
    decode: bool = True,
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Read one sample of a converted dataset by its key. Its images are the only ones that are read.

    Args:
        data_dir: A converted folder: a path, `hf://datasets/org/MMM-RS` or any fsspec URL.
        key: The sample's key, for example "SEN1-2/ROIs1158_spring_1_p1".
        modalities: Read only these columns and bytes. None for all that the subset has.
        decode: Give images as `PIL.Image`. False: as `{"bytes": ..., "path": ...}`.
        revision: A branch, tag or commit, for a dataset on the hub: the same as `hf://datasets/org/MMM-RS@revision`.
        token: As for `load_dataset`.
        storage_options: Options for fsspec's file system.

    Returns:
        A row as the builder gives it.

    Raises:
        KeyError: There is no sample of this key.
        ValueError: The subset does not have these modalities, or the arguments are in the wrong order.
        ReadError: The data cannot be read, or are not what the manifest and the index say.
    """
    if not isinstance(key, str):
        raise ValueError(f"key={key!r}: give the key of one sample, a text")
    if str(data_dir).partition("/")[0] in map(key_folder, SUBSETS) and not os.path.exists(data_dir):
        raise ValueError(f"the dataset comes first: get({key!r}, {str(data_dir)!r})")
    source = _open_converted(data_dir, storage_options, token, revision)
    segment = source.find(key)
    if segment is None:
        raise KeyError(f"{source}: no sample {key!r}. {key_hint(source, key)}")
    columns = features(segment.subset, modalities, decode)
    selection = Selection(modalities=chosen_modalities(segment.subset, modalities))
    _, table, _ = next(source.tables([segment], columns, selection, True, None))
    return columns.decode_example(table.to_pylist()[0])


def info(
    data_dir: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Info:
    """List what a converted dataset holds, from its manifest and index alone: no image is read.

    Args:
        data_dir: A converted folder: a path, `hf://datasets/org/MMM-RS` or any fsspec URL.
        revision: A branch, tag or commit, for a dataset on the hub: the same as `hf://datasets/org/MMM-RS@revision`.
        token: As for `load_dataset`.
        storage_options: Options for fsspec's file system.

    Returns:
        A table that prints as text and shows as HTML in a notebook. Its `rows` have `config`, `split`, `samples`,
        `bytes`, `pairs` (by modality) and `levels` (samples by GSD level).

    Raises:
        ReadError: The data cannot be read, or are not what the manifest and the index say.
    """
    source = _open_converted(data_dir, storage_options, token, revision)
    return Info(str(source), tuple(row for subset in source.subsets for row in info_rows(source, subset)))


def webdataset(
    config: str,
    data_dir: str | os.PathLike[str],
    split: str = "train",
    *,
    shuffle: int = 1000,
    decode: str | None = "pil",
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
    local_cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> Any:
    """Make a pipeline of the `webdataset` library over the shards. Network reads are tried again.

    Shards are shuffled, then dealt out to nodes and workers, each to one; use no more of those than there are shards.

    Args:
        config: A subset's name, or "all".
        data_dir: A converted folder: a path, `hf://datasets/org/MMM-RS` or any fsspec URL.
        split: "train" or "validation".
        shuffle: Shuffle samples in a buffer of this many. 0 for none, and for shards in order.
        decode: As webdataset's `decode`; None for bytes.
        revision: A branch, tag or commit, for a dataset on the hub: the same as `hf://datasets/org/MMM-RS@revision`.
        token: As for `load_dataset`.
        storage_options: Options for fsspec's file system.
        local_cache: As for `load_dataset`.
        cache_limit: As for `load_dataset`.

    Returns:
        A `webdataset.DataPipeline` of samples: members by suffix, as the table MEMBERS has them.

    Raises:
        ValueError: `config` does not exist, or the arguments are in the wrong order.
        ReadError: The data cannot be read, or, during iteration, a shard is not what the manifest says. Its sha256 is
            compared at its end, when its samples have been given.
    """
    import webdataset as wds

    check_order("webdataset", config, data_dir)
    subsets = subset_names(config)
    settings = {"local_cache": local_cache, "cache_limit": cache_limit}
    source = _open_converted(data_dir, storage_options, token, revision, **settings)
    names = [name for name, row in source.shards.items() if row["subset"] in subsets and row["split"] == split]
    if not names:
        if splits := source.splits([subset for subset in source.subsets if subset in subsets]):
            raise ReadError(f"{source}: {config} has no split {split!r}. It has {', '.join(splits)}")
        raise ReadError(f"{source}: no shards of {config}. It has {', '.join(source.subsets)}")
    stages = [wds.SimpleShardList(names), wds.split_by_node, wds.split_by_worker, _ShardSamples(source)]
    stages.append(wds.shuffle(shuffle))
    if shuffle:
        stages.insert(1, wds.detshuffle(len(names)))
    if decode is not None:
        stages.append(wds.decode(decode))
    return wds.DataPipeline(*stages)


# =====================================================================================================================
# How it reads. First the contracts, then what shards hold, manifest, index and selection, pieces, rows, what the
# functions above give, files, and last the private parts of `datasets`.
# =====================================================================================================================


class Segment(NamedTuple):
    """Adjoining rows of one shard, counted among those that match the filters."""

    subset: str
    shard: str  # its name in the manifest
    first: int
    last: int  # exclusive


Piece = tuple[Segment, ...]


class RowsRead(NamedTuple):
    """A table of rows, and where they are."""

    table: pa.Table
    piece: int  # its position in the list of pieces
    counts: Sequence[int]  # for each row, how many rows of its piece are complete with it


@dataclass(frozen=True)
class Skipped:
    """A sample that `on_error="skip"` left out."""

    key: str
    shard: str
    reason: str


SHOWN_SKIPPED = 20


def listing(skipped: Sequence[Skipped]) -> str:
    """Skipped samples in a line; of many, the first ones."""
    shown = "; ".join(f"{sample.key} in {sample.shard} ({sample.reason})" for sample in skipped[:SHOWN_SKIPPED])
    more = len(skipped) - SHOWN_SKIPPED
    return f"{shown}; and {more:,} more, see `skipped`" if more > 0 else shown


class Source(Protocol):
    """A dataset that the builder can read: a converted one, or the release itself.

    A package announces its own by an entry point of the group `mmm_rs.sources`: a callable that takes the path of a
    local folder or file without a manifest and returns a source, or raises ReadError for what it does not know. Sources
    must be picklable. `str(source)` names the dataset in messages.
    """

    @property
    def remote(self) -> bool:
        """Whether it is read over a network."""

    @property
    def counted(self) -> bool:
        """Whether `segments` says exactly how many rows there are."""

    @property
    def subsets(self) -> Sequence[str]:
        """The subsets that it holds."""

    def digest(self, subsets: Sequence[str]) -> str:
        """Identifies the content of these subsets."""

    def splits(self, subsets: Sequence[str]) -> list[str]:
        """The splits that these subsets have, train first."""

    def segments(self, subset: str, split: str, selection: Selection) -> list[Segment]:
        """The rows of a subset's split that match, one segment per shard."""

    def values(self, subsets: Sequence[str], column: str, selection: Selection) -> pa.ChunkedArray:
        """All values that the selection sees in an index column, for sources that are `counted`."""

    def tables(
        self,
        segments: Iterable[Segment],
        features: datasets.Features,
        selection: Selection,
        check: bool,
        skipped: list[Skipped] | None,
    ) -> Iterator[tuple[int, pa.Table, Sequence[int]]]:
        """The rows of the segments in order, as tables in the columns of `features`.

        `check`: compare each image with its checksum. `skipped`: the list to which samples are added that cannot be
        read; None to raise ReadError for them. Segments may be taken well before their rows are given.

        Yields the segment's position, a table, and the positions in the segment of the table's rows.
        """


Item = TypeVar("Item")
Result = TypeVar("Result")


class Reading(Protocol):
    """Byte ranges that are being read."""

    @property
    def is_proven(self) -> bool:
        """Whether the result has been compared with the CRCs of the ranges."""

    def result(self) -> Mapping[int, str]:
        """Wait until the buffers are filled. Returns what is wrong, by position in the ranges. Raises OSError for a
        file that is missing or cannot be opened, ReadError for a server that cannot be believed or reached."""

    def cancel(self) -> None:
        """Give up what has not begun. Does not wait."""


class Files(Protocol):
    """The files of one folder, by names such as `index/Inria.parquet`.

    A package announces faster ones for remote folders by an entry point of the group `mmm_rs.files`: a callable that
    takes a URL, storage options, a token and settings by keyword (see `load_dataset`), and returns files, or None for a
    URL that is not its own. Files must be picklable. `str(files)` is the folder's address, for messages.
    """

    @property
    def remote(self) -> bool:
        """Whether the folder is read over a network."""

    @property
    def ahead(self) -> bool:
        """Whether what is begun is read at once, before it is needed."""

    def read_ahead(self) -> contextlib.AbstractContextManager[Callable[[], int]]:
        """Held by a stream of tables while it reads. Gives a function: how many bytes may be under way."""

    def expect(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        """Take note of what the manifest says of the shards: `bytes`, `sha256` and more, by name."""

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None if the server does not report it. Raises FileNotFoundError."""

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of a file, each from its first byte to its last (exclusive). Raises OSError or ReadError for a file
        that is missing, cannot be opened, or ends before."""

    def stream(self, name: str) -> BinaryIO:
        """A file to be read from its beginning to its end."""

    def discard(self, name: str) -> None:
        """What came of a shard is damaged: remove what is kept of it."""

    def begin(self, name: str, ranges: ByteRanges) -> Reading:
        """Begin to read byte ranges into their buffers. Raises nothing: that is left to the result."""

    def in_advance(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of a call for each item, in order. If calls have to wait, the next ones have begun meanwhile."""


def open_source(
    data_dir: str | os.PathLike[str] | None,
    storage_options: Mapping[str, Any] | None = None,
    token: bool | str | None = None,
    **settings: Any,
) -> Source:
    """The source that reads `data_dir`: a converted dataset, otherwise the release. Raises ReadError for neither.

    `settings`: of files over a network; those that are None have their defaults.
    """
    if not data_dir:  # an empty text would be the current folder
        raise ValueError("data_dir: give the folder or URL of a converted dataset, or the release")
    ahead = settings.get("read_ahead")
    if ahead is not None and (isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 0):
        raise ValueError(f"read_ahead={ahead!r}: give a number of bytes, for example {48 << 20}; 0 reads nothing ahead")
    files = open_files(data_dir, storage_options, token, **settings)
    try:
        manifest = _read_manifest(files)
    except ReadError as error:
        if str(files).startswith("hf://") and "://" not in os.fspath(data_dir):
            raise ReadError(f"{data_dir}: no such folder here, so it was looked for on the hub. {error}") from error
        raise
    if manifest is not None:
        return ConvertedSource(files, manifest)
    if files.remote or not isinstance(files, LocalFiles):
        raise ReadError(
            f"{files}: no manifest.json there. Check the address and, if it is private, that you are logged in"
        )
    if not os.path.exists(files.root):
        raise ReadError(f"{files}: no such file or folder. Give a dataset on the hub as hf://datasets/org/name")
    if export := other_export(files.root):
        raise ReadError(f"{files}: {export}")
    if above := _converted_above(files.root):
        raise ReadError(f"{files}: is a part of a converted folder. Give the folder above: {above}")
    if any(os.path.exists(os.path.join(files.root, name)) for name in _BEGUN):
        raise ReadError(f"{files}: holds an unfinished conversion or export. Run the command that began it again")
    if subset := _subset_of_shards(files.root):  # part of a dataset that was downloaded by pattern
        raise ReadError(
            f"{files}: has shards but no manifest.json. Fetch manifest.json and {index_name(subset)} too, and the "
            "index of each other subset that you read"
        )
    for announced in _announced("mmm_rs.sources"):
        return announced(files.root)
    raise ReadError(
        f"{files}: no manifest.json there. To read a release that is not converted, install the package mmm-rs, which "
        "this file belongs to (pip install mmm-rs; for a checkout, once more after an update)"
    )


def other_export(root: str | os.PathLike[str]) -> str | None:
    """What to tell of a folder that holds an export to Parquet or to a folder of images; None if it holds none."""
    root = os.fspath(root)
    if os.path.exists(os.path.join(root, "manifest.json")):
        return None
    try:
        with open(os.path.join(root, "export.json"), "rb") as file:
            record = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("to") not in ("folder", "parquet"):
        return None
    what = "Parquet" if record["to"] == "parquet" else "a folder of images"
    name = re.sub(r"[^A-Za-z0-9_]+", "-", os.path.basename(os.path.abspath(root))).strip("-")
    upload = f"hf upload org/{name or 'NAME'} {shlex.quote(root)} --repo-type dataset"
    return f"is an export to {what}. Load it with {loading(record['to'], root)}; upload it with `{upload}`"


def loading(to: str, root: str) -> str:
    """The call of `datasets` that loads an export to Parquet or to a folder of images."""
    if to == "parquet":
        return f'load_dataset("parquet", data_dir={json.dumps(os.path.join(root, "data"), ensure_ascii=False)})'
    return f'load_dataset("imagefolder", data_dir={json.dumps(root, ensure_ascii=False)})'


def _converted_above(root: str) -> str | None:
    """The converted folder of which `root` is the folder of the shards, of one subset's shards or of the index."""
    parent, name = os.path.split(root)
    if os.path.basename(parent) == "data" and name in SUBSETS:
        parent, name = os.path.split(parent)
    return parent if name in ("data", "index") and os.path.isfile(os.path.join(parent, "manifest.json")) else None


_BEGUN = (".mmm-rs/options.json", ".mmm-rs/export.json")  # are there as long as a conversion or an export is unfinished


def _subset_of_shards(root: str) -> str | None:
    """A subset of which a local folder has shards."""
    for name in SUBSETS:
        folder = os.path.join(root, "data", name)
        if os.path.isdir(folder) and any(SHARD_NAME.fullmatch(f"data/{name}/{file}") for file in os.listdir(folder)):
            return name
    return None


_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?:@[\w./-]+)?")  # org/MMM-RS, perhaps with a revision
_NO_DATASET = re.compile(rf"hf://(?:models/|spaces/)?(?!datasets/|buckets/)({_NAME}/{_NAME}(?:@[^/]+)?)/?")
_PAGE = re.compile(rf"https?://([^/]+)/datasets/({_NAME}/{_NAME})(?:/(?:tree|blob)/([^/?#]+))?/?(?:[?#].*)?")


def dataset_address(place: str | os.PathLike[str], revision: str | None = None) -> str:
    """Where a dataset is, in the one form that is read: a path or a URL such as `hf://datasets/org/MMM-RS`.

    Args:
        place: A path, any fsspec URL, `org/MMM-RS` (unless the folder `org` exists here) or the address of the
            dataset's page on the hub, `https://huggingface.co/datasets/org/MMM-RS`.
        revision: A branch, tag or commit of a repository on the hub.

    Raises:
        ValueError: `revision` is given for a place that is not on the hub or that names a revision already.
    """
    text = os.fspath(place)
    if revision is not None:
        return _at_revision(text, revision)
    if _REPOSITORY.fullmatch(text) and not os.path.exists(text.partition("/")[0]):
        return f"hf://datasets/{text}"
    hosts = ("huggingface.co", "hf.co", os.environ.get("HF_ENDPOINT", "").rpartition("://")[2].rstrip("/"))
    if (page := _PAGE.fullmatch(text)) and page[1] in hosts:
        return f"hf://datasets/{page[2]}" + (f"@{page[3]}" if page[3] else "")
    return text


def _at_revision(place: str, revision: str) -> str:
    address = dataset_address(place)
    parts = re.fullmatch(rf"(hf://datasets/{_NAME}/{_NAME})(@[^/]+)?((?:/.*)?)", address)
    if not parts:
        raise ValueError(
            f"revision={revision!r}: is for a dataset on the hub, and {without_login(place)} is not there. Give "
            "org/MMM-RS or hf://datasets/org/MMM-RS, or omit the revision"
        )
    if parts[2]:
        raise ValueError(f"revision={revision!r}: {place} names a revision already. Give one of the two")
    return f"{parts[1]}@{urllib.parse.quote(revision, safe='')}{parts[3]}"


def without_login(text: str) -> str:
    """A URL, or a message with one, without the name and the password of a user."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """ " Did you mean SEN1-2?" if a known word is much like this one, otherwise nothing. Case and punctuation do not
    count."""
    folded = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in known}
    text = re.sub(r"[^a-z0-9]", "", str(word).lower())
    similar = difflib.get_close_matches(text, folded, 1, 0.7) or [
        name for name in folded if len(text) > 2 and text in name
    ]
    return f" Did you mean {folded[similar[0]]}?" if similar else ""


def open_files(
    data_dir: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    token: bool | str | None = None,
    **settings: Any,
) -> Files:
    """The files of a folder, local or remote. `settings`: see `open_source`."""
    address = dataset_address(data_dir)
    if match := _NO_DATASET.fullmatch(address):
        raise ValueError(f"{address}: is not the address of a dataset. Give hf://datasets/{match[1]}")
    path = os.path.abspath(os.path.expanduser(address))  # the reader may have another working directory
    if "://" not in address and ("::" not in address or os.access(path, os.F_OK)) and JOINED:
        return _local_files(path, settings)
    if address.startswith("file://") and JOINED:
        return _local_files(fsspec.core.url_to_fs(address)[1], settings)
    for announced in _announced("mmm_rs.files"):
        files = announced(address, dict(options or {}), token, **settings)
        if files is not None:
            return files
    for name in ("local_cache", "cache_limit"):
        if settings.get(name):
            raise ValueError(f"{name}: needs the package mmm-rs, which this file belongs to: pip install mmm-rs")
    return FsspecFiles(address, dict(options or {}), token)


def _local_files(root: str, settings: Mapping[str, Any]) -> LocalFiles:
    if settings.get("local_cache") or settings.get("cache_limit"):
        logger.info(f"{root}: is read where it is, on a disk of this machine, so local_cache is not used")
    return LocalFiles(root)


def _announced(group: str) -> Iterator[Callable[..., Any]]:
    """What installed packages announce by entry points."""
    for entry_point in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
        try:
            yield entry_point.load()
        except (ImportError, AttributeError) as error:
            logger.warning(f"{entry_point.value}, which reads for mmm_rs, cannot be loaded: {in_one_line(error)}")


class ForkSafeLock:
    """A lock that is free in a forked child, whichever thread of the parent held it. It can be pickled."""

    _all: ClassVar[weakref.WeakSet[ForkSafeLock]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all.add(self)

    def __reduce__(self) -> Any:
        return ForkSafeLock, ()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @classmethod
    def free_all(cls) -> None:
        for lock in cls._all:
            lock._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ForkSafeLock.free_all)


def in_one_line(error: BaseException) -> str:
    """An error's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


# --- what shards hold ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Members:
    """Suffixes of a modality's members of a sample in a shard, without the leading dot."""

    image: str
    prompt: str


MEMBERS = {
    "rgb": Members("jpg", "txt"),
    "nir": Members("nir.jpg", "nir.txt"),
    "sar": Members("sar.jpg", "sar.txt"),
}
METADATA_MEMBER = "json"

# What a prompt and its record say of an image, with its type in shards and index.
LABEL_TYPES = {
    "caption": "string",
    "category": "string",
    "weather": "string",
    "satellite": "string",
    "gsd": "float64",
    "gsd_level": "string",
    "gsd_level_derived": "bool",
    "cloud_cover": "float64",
}


def wds_features(config: str, format_version: str = FORMAT_VERSION) -> datasets.Features:
    """The columns that the shards have when they are loaded without code: what the card's YAML declares.

    Labels are strings here, as in the shards; those of each modality came with format 1.1. `__key__` and `__url__` are
    declared because some versions of `datasets` refuse to stream without them.
    """
    text = datasets.Value("string")
    columns: dict[str, object] = {"__key__": text, "__url__": text}
    for modality in config_modalities(config):
        columns[MEMBERS[modality].image] = datasets.Image()
        columns[MEMBERS[modality].prompt] = text
    labels = {name: datasets.Value(dtype) for name, dtype in LABEL_TYPES.items()}
    fields = {
        "subset": text,
        "source": {modality: text for modality in MODALITIES},
        **labels,
        "annotation": {modality: text for modality in MODALITIES},
    }
    if format_version != "1.0":
        fields["labels"] = {modality: dict(labels) for modality in MODALITIES}
    columns[METADATA_MEMBER] = fields
    return datasets.Features(columns)


# --- the manifest ----------------------------------------------------------------------------------------------------

SHARD_NAME = re.compile(rf"data/({'|'.join(map(re.escape, SUBSETS))})/(train|validation)-\d{{5,}}-of-\d{{5,}}\.tar")
"""The name of a shard, which is its path in the folder. A manifest that names another path is not to be followed."""


def lines_digest(parts: Iterable[str]) -> str:
    """sha256 over hexadecimal digests, one per line."""
    return hashlib.sha256("".join(part + "\n" for part in parts).encode()).hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of the manifest without its own digest, as JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def subsets_digest(manifest: Mapping[str, Any], subsets: Sequence[str]) -> str:
    """Identifies the shards of these subsets: one subset's own digest, or one over those of several in turn."""
    digests = [manifest["subsets"][name]["digest"] for name in subsets]
    return digests[0] if len(digests) == 1 else lines_digest(digests)


def split_names(manifest: Mapping[str, Any], subsets: Sequence[str]) -> list[str]:
    """The splits that these subsets have, train first."""
    splits = {split for name in subsets for split in manifest["subsets"][name]["splits"]}
    return sorted(splits, key=lambda split: (split != "train", split))


def subset_totals(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The manifest's totals by subset, from its rows of shards."""
    totals = {}
    for name in SUBSETS:
        rows = [row for row in shards if row["subset"] == name]
        if rows:
            splits = {split: _total([row for row in rows if row["split"] == split]) for split in SPLITS}
            totals[name] = _total(rows) | {
                "digest": lines_digest(row["sha256"] for row in rows),
                "splits": {split: total for split, total in splits.items() if total["samples"]},
            }
    return totals


def _total(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "shards": len(shards),
        "samples": sum(row["samples"] for row in shards),
        "bytes": sum(row["bytes"] for row in shards),
        "pairs": {modality: sum(row["pairs"][modality] for row in shards) for modality in MODALITIES},
    }


def parse_manifest(data: bytes) -> dict[str, Any]:
    """The manifest in `data`, if it has what readers rely on, of the right types and within what is possible.

    A right digest proves only that the manifest is as somebody wrote it, and anybody can write one. So each shard has
    the one name that a shard can have, and no number is larger than its shard allows.

    Raises ValueError that says what is wrong with it, and OtherFormat for a version that is not read here.
    """
    try:
        manifest = json.loads(data)
    except RecursionError:
        raise ValueError("cannot be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"cannot be read: it is not JSON ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format_version"), str):
        raise ValueError("cannot be read: it is not the manifest of a converted dataset")
    if manifest["format_version"].split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise OtherFormat(manifest["format_version"][:20])
    if manifest.get("digest") != manifest_digest(manifest):
        raise ValueError(
            f"was edited or damaged: its digest should be {manifest_digest(manifest)} and is "
            f"{str(manifest.get('digest'))[:64]}"
        )
    shards, options = manifest.get("shards"), manifest.get("options")
    if not isinstance(shards, list) or not isinstance(options, dict) or not isinstance(options.get("seed"), int):
        raise ValueError("lacks its list of shards or its options")
    for number, row in enumerate(shards):
        if fault := _shard_fault(row):
            raise ValueError(f"its shard {number} {fault}")
    if len({row["name"] for row in shards}) != len(shards):
        raise ValueError("names a shard twice")
    if not shards or manifest.get("subsets") != subset_totals(shards):
        raise ValueError("its totals are not those of its shards")
    if manifest["format_version"] != "1.0":
        files = manifest.get("files")
        names = described_files(manifest["subsets"])
        if not isinstance(files, dict):
            raise ValueError("does not describe its files")
        for name in names:
            if not _is_described(files.get(name)):
                raise ValueError(f"does not say the size and sha256 of {name}")
        if strange := sorted(set(files) - set(names)):
            raise ValueError(f"describes the file {strange[0][:200]!r}, which is not one of the format")
    if fault := _origin_fault(manifest.get("exported_from")):
        raise ValueError(f"does not say what it was exported from: {fault}")
    return manifest


def _origin_fault(exported_from: Any) -> str | None:
    """What is wrong with what a manifest says that it was exported from; None if nothing is, or it was not."""
    if exported_from is None:
        return None
    if not isinstance(exported_from, dict) or not isinstance(exported_from.get("digest"), str):
        return "it has no digest"
    if not isinstance(exported_from.get("address"), str | None):
        return "its address is not a text"
    selection = exported_from.get("selection")
    if not isinstance(selection, dict) or not all(isinstance(name, str) for name in selection):
        return "it has no selection"
    return None


def described_files(subsets: Iterable[str]) -> list[str]:
    """The files whose size and sha256 a manifest says, beside its shards, since format 1.1."""
    return [*map(index_name, subsets), "mmm_rs.py", "report/summary.json", "report/unpublished.parquet"]


def _is_described(row: Any) -> bool:
    if not isinstance(row, dict) or type(row.get("bytes")) is not int or not 0 < row["bytes"] <= LARGEST_SHARD:
        return False
    return isinstance(row.get("sha256"), str) and re.fullmatch(r"[0-9a-f]{64}", row["sha256"]) is not None


class OtherFormat(ValueError):
    """The manifest is of a format that this module does not read. Its text is the version."""


SPLITS = ("train", "validation")
SMALLEST_SAMPLE = 4 * 512  # bytes in a tar: an image and a JSON, each with a header
LARGEST_SHARD = 1 << 44  # bytes; so that no sum of offsets and sizes leaves 64 bits


def _shard_fault(row: Any) -> str | None:
    """What is wrong with a manifest's row of a shard; None if nothing is."""
    name = row.get("name") if isinstance(row, dict) else None
    match = SHARD_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return f"is named {str(name)[:200]!r}, which is not the name of a shard"
    if (row.get("subset"), row.get("split")) != match.groups():
        return "is of another subset or split than its name says"
    pairs = row.get("pairs")
    counts = [row.get("bytes"), row.get("samples")]
    counts += [pairs.get(modality) for modality in MODALITIES] if isinstance(pairs, dict) else [None]
    if any(type(count) is not int or count < 0 for count in counts):
        return "has a count that is not a number from 0 up"
    if not 0 < row["samples"] * SMALLEST_SAMPLE <= row["bytes"] <= LARGEST_SHARD:
        return f"cannot hold {row['samples']:,} samples in {row['bytes']:,} bytes"
    if max(counts[2:]) > row["samples"]:
        return "has more pairs than samples"
    if not isinstance(row.get("sha256"), str) or not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]):
        return "has no sha256"
    return None


def _read_manifest(files: Files) -> dict[str, Any] | None:
    """The manifest; None if there is none. Raises ReadError if it cannot be used."""
    try:
        return parse_manifest(files.read("manifest.json"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OtherFormat as version:
        raise ReadError(
            f"{files}/manifest.json: format {version}, this module reads {FORMAT_VERSION}. Use the mmm_rs.py that is "
            "beside the data"
        ) from None
    except ValueError as error:
        raise ReadError(f"{files}/manifest.json: {error}. Fetch it again") from None
    except OSError as error:
        raise ReadError(f"{files}/manifest.json: cannot be read: {in_one_line(error)}. Fetch it again") from error


# --- the index -------------------------------------------------------------------------------------------------------

FOOTER = 256 << 10  # bytes at the end of an index that are read at once; its footer has 4 kB a shard
# Rows that are uncompressed together, and how much larger than their compressed bytes they may become in all: a Parquet
# file of some kilobytes can hold one text of megabytes a million times.
ROWS_AT_ONCE = 4096
EXPANSION, EXPANDED = 200, 64 << 20  # times; and bytes that are always allowed
# Columns of a row group that are this close, in bytes, are read as one: over a network another request costs more.
COLUMN_GAP = 64 << 10
COMPARED = 10_000  # keys that are compared with a wrong one letter by letter, at most: about a second


def key_folder(subset: str) -> str:
    """What the keys of a subset begin with, before the first slash."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", subset)


def index_name(subset: str) -> str:
    """The name of a subset's index file, which is its path in the folder."""
    return f"index/{subset}.parquet"


def index_schema(format_version: str = FORMAT_VERSION) -> pa.Schema:
    """The columns of a subset's index, the same for every subset; one row per sample.

    The labels without a prefix describe the first modality of a sample, those with one the near infrared and the radar
    image; format 1.0 does not have the latter.

    Offsets count from the start of the shard to the image's first byte; offsets and sizes in bytes, widths and heights
    in pixels. Keys, labels and places stand first and long texts last, so that a filter over the network reads one
    stretch of each row group.
    """
    by_modality = pa.struct([(modality, pa.string()) for modality in MODALITIES])
    columns = [(name, pa.string()) for name in ("key", "split", "shard", "subset")]
    described = ("rgb",) if format_version == "1.0" else MODALITIES
    for modality in described:
        columns += [
            (label_column(name, modality), pa.type_for_alias(dtype))
            for name, dtype in LABEL_TYPES.items()
            if name != "caption"
        ]
    for modality in MODALITIES:
        columns += [(f"{modality}_{name}", pa.int64()) for name in IMAGE_PLACE]
        columns += [(f"{modality}_{name}", pa.int32()) for name in ("width", "height")]
    columns += [(PROMPT_COLUMNS[modality], pa.string()) for modality in MODALITIES]
    columns += [(label_column("caption", modality), pa.string()) for modality in described]
    columns += [("source", by_modality), ("annotation", by_modality)]
    return pa.schema(columns)


IMAGE_PLACE = ("offset", "size", "crc32")  # where an image is and what it must be, by columns of the index
IMAGE_FACTS = (*IMAGE_PLACE, "width", "height")  # what the index has of each image, or of none


def label_column(label: str, modality: str) -> str:
    """The index column of a modality's label. Those of the optical image describe the first modality that there is."""
    return label if modality == MODALITIES[0] else f"{modality}_{label}"


def with_label_columns(columns: Iterable[str], modalities: Sequence[str]) -> list[str]:
    """The index columns that `labels_of` needs to give these."""
    needed = [*columns]
    for label in LABEL_TYPES.keys() & set(needed):
        needed += [label_column(label, modality) for modality in modalities]
        needed += [f"{modality}_size" for modality in modalities]
    return list(dict.fromkeys(needed))


def labels_of(rows: pa.Table, modalities: Sequence[str]) -> pa.Table:
    """Index rows whose labels describe the first of `modalities` that each sample has; null where it has none."""
    for label in LABEL_TYPES.keys() & set(rows.column_names):
        values = pa.nulls(rows.num_rows, pa.type_for_alias(LABEL_TYPES[label]))
        for modality in reversed(modalities):
            has_image = pc.is_valid(rows[f"{modality}_size"])
            values = pc.if_else(has_image, rows[label_column(label, modality)], values)
        rows = rows.set_column(rows.column_names.index(label), label, values)
    return rows


def key_hash(key: str, seed: int) -> bytes:
    """Eight bytes by which the samples of a subset are sorted, so that a stream of it is shuffled already."""
    return hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()


def index_batches(
    file: pq.ParquetFile, groups: Iterable[int], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of these row groups of an index, with all columns if none are named.

    Raises pa.ArrowException if they cannot be read, or are much larger than what a conversion writes in as many bytes.
    """
    groups = list(groups)
    chunks = [
        part
        for group in map(file.metadata.row_group, groups)
        for part in map(group.column, range(group.num_columns))
        if columns is None or part.path_in_schema.partition(".")[0] in columns
    ]
    limit = EXPANDED + EXPANSION * sum(part.total_compressed_size for part in chunks)
    # Those of a shard come sooner without Arrow's threads, each of which keeps some memory for itself.
    threads = sum(file.metadata.row_group(group).num_rows for group in groups) > ROWS_AT_ONCE
    names = None if columns is None else list(columns)
    for batch in file.iter_batches(ROWS_AT_ONCE, groups, names, use_threads=threads):
        limit -= batch.nbytes
        if limit < 0:
            raise pa.ArrowInvalid("its rows are far larger than a conversion writes them")
        yield batch


def read_row_groups(file: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
    """The same as one table."""
    batches = list(index_batches(file, groups, columns))
    return pa.Table.from_batches(batches) if batches else file.read_row_groups(groups, columns)


class Index:
    """The index of a subset. Threads may use it together."""

    def __init__(self, files: Files, manifest: Mapping[str, Any], subset: str) -> None:
        self._files, self._seed, self._subset = files, manifest["options"]["seed"], subset
        self._shards = {row["name"]: row for row in manifest["shards"] if row["subset"] == subset}
        counts = [row["samples"] for row in self._shards.values()]
        self._starts = dict(zip(self._shards, np.cumsum([0, *counts]).tolist()[:-1], strict=True))
        self.has_labels_by_modality = manifest["format_version"] != "1.0"
        self._stated = manifest.get("files", {}).get(index_name(subset), {})
        self._metadata, self._bounds = self._open(manifest["subsets"][subset]["samples"])
        self._check_columns(index_schema(manifest["format_version"]))

    def __str__(self) -> str:
        return f"{self._files}/{index_name(self._subset)}"

    def _open(self, expected: int) -> tuple[pq.FileMetaData, np.ndarray]:
        """The file's metadata, and the rows at which its row groups begin and end."""
        name = index_name(self._subset)
        try:
            # Over a network the size is not asked for: that would be one more request.
            stated = self._stated.get("bytes")
            size = self._files.size(name) if not self._files.remote else stated or self._files.size(name)
            if size != (stated or size):
                raise ReadError(f"{self}: has {size} bytes, the manifest says {stated}. Fetch index and manifest again")
            if size is None:
                raise ReadError(
                    f"{self}: the server does not report its size. Download the files, then give their folder as "
                    "data_dir"
                )
            (footer,) = self._files.ranges(name, [(max(size - FOOTER, 0), size)])
            length = int.from_bytes(footer[-8:-4], "little") + 8
            if len(footer) < length <= size:
                (footer,) = self._files.ranges(name, [(size - length, size)])
            # Pages have checksums of their own, a footer has none, and Arrow ends the process over some damaged ones.
            crc32 = zlib.crc32(footer[-length:])
            if crc32 != self._stated.get("footer_crc32", crc32):
                raise ReadError(
                    f"{self}: its footer is damaged, or not the one that the manifest means. Fetch index and manifest "
                    "again"
                )
            metadata = pq.read_metadata(pa.BufferReader(footer))
        except FileNotFoundError:
            raise ReadError(f"{self}: not found. Fetch it too, or it was left out with its subset") from None
        except (pa.ArrowException, OSError) as error:
            raise ReadError(f"{self}: cannot be read: {in_one_line(error)}") from error
        self._size, self._end = size, footer
        counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if sum(counts) != expected:
            raise ReadError(
                f"{self}: has {sum(counts)} rows, the manifest says {expected}. Fetch index and manifest again"
            )
        return metadata, np.cumsum([0, *counts])

    def _check_columns(self, expected: pa.Schema) -> None:
        """Raises ReadError if columns are missing, or have another type. Later versions may have more."""
        try:
            schema = self._metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise ReadError(f"{self}: cannot be read: {in_one_line(error)}") from error
        wrong = [field.name for field in expected if field not in schema]
        if wrong:
            raise ReadError(
                f"{self}: lacks the columns {', '.join(wrong)} of an index, or has them in another type. Fetch it again"
            )
        self._lacking = pa.schema([field for field in index_schema() if field.name not in schema.names])

    def rows(self, shard: str, columns: Sequence[str], first: int = 0, last: int | None = None) -> pa.Table:
        """Rows of one shard, from its `first` to its `last` (exclusive; None for the end). Columns that came with a
        later format than the index's are null.

        Raises ReadError if index and manifest contradict each other.
        """
        rows = self.unchecked_rows(shard, columns, first, last)
        self.check(rows, shard)
        return rows

    def unchecked_rows(self, shard: str, columns: Sequence[str], first: int = 0, last: int | None = None) -> pa.Table:
        """The same before `check`, which may be given a part of them at a time."""
        start = self._starts[shard] + first
        stop = self._starts[shard] + (self._shards[shard]["samples"] if last is None else last)
        group, last_group = np.searchsorted(self._bounds, [start, stop - 1], side="right") - 1
        groups = range(int(group), int(last_group) + 1)
        needed = tuple(dict.fromkeys(("shard", *columns)))
        rows = self._read(groups, needed).slice(start - int(self._bounds[group]), stop - start)
        if rows.num_rows != stop - start:
            raise ReadError(
                f"{self}: has {rows.num_rows} of the {stop - start} rows that the manifest has in {shard}. Fetch index "
                "and manifest again"
            )
        return rows

    def check(self, rows: pa.Table, shard: str) -> None:
        """Raises ReadError if rows of a shard contradict the manifest or themselves."""
        if not pc.all(pc.equal(rows["shard"], shard)).as_py():
            raise ReadError(
                f"{self}: has rows of other samples than the manifest has in {shard}. Fetch index and manifest again"
            )
        if "key" in rows.column_names:
            self._check_keys(rows["key"])
        for modality in MODALITIES:
            facts = [name for fact in IMAGE_FACTS if (name := f"{modality}_{fact}") in rows.column_names]
            if any(rows[name].is_valid() != rows[facts[0]].is_valid() for name in facts[1:]):
                raise ReadError(
                    f"{self}: has only a part of {', '.join(facts)} of an image. Fetch index and manifest again"
                )

    def _check_keys(self, keys: pa.ChunkedArray) -> None:
        """Raises ReadError for a key that no conversion writes: exports and `show --save` make file names of keys."""
        fits = pc.match_substring_regex(keys, rf"\A{re.escape(key_folder(self._subset))}(/[A-Za-z0-9_-]+)+\z")
        if not pc.all(fits.fill_null(False)).as_py():
            key = keys.filter(pc.invert(fits.fill_null(False)))[0].as_py()
            raise ReadError(
                f"{self}: {str(key)[:200]!r} is not the key of a sample of {self._subset}. Fetch index and manifest "
                "again, from somebody whom you trust"
            )

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows, of the columns that are named."""
        return self._read(range(self._metadata.num_row_groups), columns)

    def find(self, key: str) -> tuple[str, int] | None:
        """The shard of the sample of this key, and the sample's row in it."""
        # The samples of a split are sorted by a hash of their key, so it is in about this row of each.
        share = int.from_bytes(key_hash(key, self._seed), "big") / 2**64
        guesses, start = [], 0
        for split in dict.fromkeys(row["split"] for row in self._shards.values()):
            count = sum(row["samples"] for row in self._shards.values() if row["split"] == split)
            guesses.append(np.searchsorted(self._bounds, start + int(share * count), side="right") - 1)
            start += count
        groups = range(self._metadata.num_row_groups)
        for group in sorted(groups, key=lambda group: min(abs(group - guess) for guess in guesses)):
            position = pc.index(self._read([group], ["key"])["key"], key).as_py()
            if position >= 0:
                row = int(self._bounds[group]) + position
                shard = next(name for name in reversed(self._starts) if self._starts[name] <= row)
                return shard, row - self._starts[shard]
        return None

    def keys(self) -> pa.ChunkedArray:
        """The keys of all samples, in the order of the shards."""
        groups = range(self._metadata.num_row_groups)
        return pa.chunked_array([self._read([group], ["key"])["key"].combine_chunks() for group in groups], pa.string())

    def _read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        # The bytes are fetched before Arrow sees them, in as few requests as possible. Arrow's own threads must not
        # wait for a network: they would call back into Python, even while the interpreter ends.
        spans = self._column_ranges(groups, columns)
        try:
            room = np.empty(self._size, np.uint8)  # as large as the file; only what is written to takes memory
            room[self._size - len(self._end) :] = np.frombuffer(self._end, np.uint8)
            for (start, stop), data in zip(spans, self._files.ranges(index_name(self._subset), spans), strict=True):
                room[start:stop] = np.frombuffer(data, np.uint8)
            buffer = pa.BufferReader(pa.py_buffer(room))
            with pq.ParquetFile(buffer, metadata=self._metadata, page_checksum_verification=True) as file:
                rows = read_row_groups(file, groups, columns).combine_chunks()
            for name in self._lacking.names:
                if name in columns:
                    rows = rows.append_column(name, pa.nulls(rows.num_rows, self._lacking.field(name).type))
            return rows
        except (pa.ArrowException, OSError) as error:
            raise ReadError(
                f"{self}: row groups {list(groups)} cannot be read: {in_one_line(error)}. Fetch it again"
            ) from error

    def _column_ranges(self, groups: Sequence[int], columns: Sequence[str]) -> list[tuple[int, int]]:
        """The byte ranges of these columns, near ones joined, without the end of the file, which is known."""
        ranges: list[tuple[int, int]] = []
        known = self._size - len(self._end)
        for group in map(self._metadata.row_group, groups):
            for part in map(group.column, range(group.num_columns)):
                if part.path_in_schema.partition(".")[0] in columns:
                    start = part.dictionary_page_offset if part.has_dictionary_page else part.data_page_offset
                    ranges.append((start, start + part.total_compressed_size))
        joined: list[tuple[int, int]] = []
        for start, stop in sorted(ranges):
            if not 0 <= start <= stop <= self._size:
                raise ReadError(f"{self}: has columns outside of the file. Fetch it again")
            if joined and start - joined[-1][1] <= COLUMN_GAP:
                joined[-1] = joined[-1][0], max(min(stop, known), joined[-1][1])
            elif start < known:
                joined.append((start, min(stop, known)))
        return joined


# --- the selection ---------------------------------------------------------------------------------------------------

# Columns of few values, all known.
LABELS = {"subset": tuple(SUBSETS)} | {
    label_column(label, modality): values
    for modality in MODALITIES
    for label, values in (("gsd_level", GSD_LEVELS), ("weather", WEATHERS))
}
OPERATIONS: Mapping[str, Callable[[Any, Any], pc.Expression]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda field, values: field.isin(values),
    "not in": lambda field, values: ~field.isin(values),
}


class Term(NamedTuple):
    """A comparison of an index column with a value, or with several."""

    column: str
    operation: str
    value: Any


@dataclass(frozen=True, eq=False)  # expressions cannot be compared
class Selection:
    """The rows to read: an expression over index columns, None for all rows, and the columns that it names. Labels, in
    the expression and in rows, are those of the first of `modalities` that a sample has."""

    expression: pc.Expression | None = None
    columns: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES

    def chooses(self, subset: str) -> bool:
        """Whether some of the subset's modalities are left out, so that its labels must be chosen."""
        return not set(SUBSETS[subset].modalities) <= set(self.modalities)

    def positions(self, rows: pa.Table) -> pa.Array:
        """The positions of the rows that match. Raises ValueError for a filter that does not fit the columns."""
        numbered = rows.append_column("__position__", pa.array(np.arange(rows.num_rows)))
        try:
            return numbered.filter(self.expression)["__position__"].combine_chunks()
        except (pa.ArrowException, TypeError) as error:
            reason = in_one_line(error).partition(" in key: ")[0][:300]  # Arrow would list the schema
            columns = ", ".join(f"{field.name} ({_kind(field.type)})" for field in index_schema("1.0"))
            raise ValueError(
                f"filters: {reason}. The index has the columns {columns}; labels of one modality have its name in "
                "front, for example sar_satellite"
            ) from None


def select(filters: Any, contains: str | Sequence[str] | None, modalities: Sequence[str]) -> Selection:
    """`filters` and `contains` (see MMMRSConfig) as one selection. Raises ValueError if they do not fit the index."""
    parts = [*_filter_expressions(filters), *_text_expressions(contains, modalities)]
    if not parts:
        return Selection(modalities=tuple(modalities))
    expression = functools.reduce(operator.and_, parts)
    selection = Selection(expression, _columns_of(expression), tuple(modalities))
    selection.positions(index_schema().empty_table())  # raises an error if it does not fit
    try:
        pickle.dumps(expression)
    except pa.ArrowException:
        raise ValueError(f"filters: {filters}: cannot be handed to workers. Name columns, whole ones") from None
    return selection


def _filter_expressions(filters: Any) -> list[pc.Expression]:
    """The expression that the filters are, if there are any."""
    if filters is None or isinstance(filters, pc.Expression):
        return [] if filters is None else [filters]
    try:
        alternatives = [
            functools.reduce(operator.and_, [_term_expression(term) for term in terms]) for terms in _terms(filters)
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'filters={filters!r}: {error}. Give {{"gsd_level": "low"}}, [("gsd", "<", 1), ...], a list of such lists '
            "or a pyarrow.compute expression"
        ) from None
    return [functools.reduce(operator.or_, alternatives)] if alternatives else []


def _terms(filters: Any) -> list[list[Term]]:
    """Filters in any of their forms as alternatives: lists of terms that must all hold."""
    if isinstance(filters, Mapping):
        filters = [(name, "in" if _is_several(value) else "==", value) for name, value in filters.items()]
    elif _is_term(filters):
        filters = [filters]
    if not isinstance(filters, list | tuple):
        raise ValueError("it is not a filter")
    if not all(isinstance(part, list | tuple) and part for part in filters):
        raise ValueError("a part of it is not a filter")
    if all(map(_is_term, filters)):
        return [[Term(*term) for term in filters]] if filters else []
    alternatives = [[part] if _is_term(part) else list(part) for part in filters]
    if wrong := [term for terms in alternatives for term in terms if not _is_term(term)]:
        raise ValueError(f"{wrong[0]!r} is not a column, an operation and a value")
    return [[Term(*term) for term in terms] for terms in alternatives]


def _is_term(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], str)
    )


def _is_several(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset | np.ndarray)


def _term_expression(term: Term) -> pc.Expression:
    """A term as an expression. Null is unequal to every value, and not among any: `!=` and `not in` keep its rows."""
    schema = index_schema()
    if term.column not in schema.names:
        hint = did_you_mean(term.column, schema.names)
        raise ValueError(f"no column {term.column!r}.{hint} The index has {', '.join(schema.names)}")
    if term.operation not in OPERATIONS:
        raise ValueError(f"{term.operation!r} is not an operation; these are {' '.join(OPERATIONS)}")
    field, type_ = pc.field(term.column), schema.field(term.column).type
    several = term.operation in ("in", "not in")
    if several != _is_several(term.value):
        wanted = "a list" if several else "one value, or the operation in"
        raise ValueError(f"{term.column!r} {term.operation} {term.value!r}: give {wanted}")
    values = [
        getattr(value, "item", lambda value=value: value)() for value in (term.value if several else [term.value])
    ]
    for value in values:
        _check_value(term.column, type_, value)
    known = [value for value in values if value is not None]
    negative = term.operation in ("!=", "not in")
    if not several and not known:
        if term.operation not in ("==", "=", "!="):
            raise ValueError(f"{term.column!r} {term.operation} None: null is neither smaller nor larger")
        return field.is_valid() if negative else field.is_null()
    compared = OPERATIONS[term.operation](field, pa.array(known, type_) if several else pc.scalar(known[0]))
    if len(known) < len(values):  # null is among them
        return compared & field.is_valid() if negative else compared | field.is_null()
    return compared | field.is_null() if negative else compared


def _check_value(column: str, type_: pa.DataType, value: Any) -> None:
    """Raises ValueError for a value that no row can have, because nobody would see why nothing matches."""
    kind = _kind(type_)
    fits = {
        "text": isinstance(value, str),
        "true or false": isinstance(value, bool),
        "a number": isinstance(value, int | float) and not isinstance(value, bool),
    }
    if kind not in fits:
        raise ValueError(f"{column!r} has several parts and cannot be compared")
    if value is not None and not fits[kind]:
        labels = f" ({', '.join(LABELS[column])})" if column in LABELS else ""
        raise ValueError(f"{column!r} is {kind}{labels}, and {value!r} is not")
    if value is not None and column in LABELS and value not in LABELS[column]:
        hint = did_you_mean(value, LABELS[column])
        raise ValueError(f"{value!r} is not a {column}.{hint} These are {', '.join(LABELS[column])}")


def _kind(type_: pa.DataType) -> str:
    """What the values of a column are, in words."""
    if pa.types.is_string(type_):
        return "text"
    if pa.types.is_boolean(type_):
        return "true or false"
    return "several parts" if pa.types.is_nested(type_) else "a number"


def _text_expressions(contains: str | Sequence[str] | None, modalities: Sequence[str]) -> list[pc.Expression]:
    """For each text: it occurs in a prompt of one of the modalities."""
    texts = [contains] if isinstance(contains, str) else contains or []
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"contains={contains!r}: give a text or a list of texts")
    prompts = [pc.field(PROMPT_COLUMNS[modality]) for modality in modalities]
    return [
        functools.reduce(operator.or_, [pc.match_substring(prompt, text, ignore_case=True) for prompt in prompts])
        for text in texts
    ]


def _columns_of(expression: pc.Expression) -> tuple[str, ...]:
    """The index columns that an expression names. pyarrow reports them only in the expression's text, perhaps among
    other words: one column too many does no harm."""
    words = set(re.findall(r"\w+", str(expression)))
    return tuple(name for name in index_schema().names if name in words)


def no_match(source: Source, subsets: Sequence[str], selection: Selection, options: Mapping[str, Any]) -> str:
    """That nothing matches, and what values there are. `options`: what was asked for, as the builder takes it."""
    asked = " and ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
    columns = [name for name in selection.columns if name not in (*PROMPT_COLUMNS.values(), "caption")]  # sentences
    values = [f"{name} is {describe_values(source.values(subsets, name, selection))}" for name in columns[:3]]
    return f"no sample matches {asked}" + (f". {'; '.join(values)}" if values else "")


def describe_values(values: pa.ChunkedArray) -> str:
    """The values of an index column in a few words."""
    values = values.drop_null()
    if not len(values):
        return "always null"
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        ends = pc.min_max(values).as_py()
        return f"{ends['min']:g} to {ends['max']:g}"
    counts = sorted(pc.value_counts(values).to_pylist(), key=lambda entry: (-entry["counts"], str(entry["values"])))
    shown = ", ".join(str(entry["values"])[:60] for entry in counts[:SHOWN_VALUES])
    return shown if len(counts) <= SHOWN_VALUES else f"{shown} and {len(counts) - SHOWN_VALUES:,} more"


SHOWN_VALUES = 10


# --- pieces ----------------------------------------------------------------------------------------------------------

# Rows in a piece. Fewer: a resumed stream reads less again, nodes and workers share more evenly. More: less to keep.
PIECE_ROWS = 128
# Pieces come in multiples of this many, so that 2, 4, 8, 16 or 32 readers get equally many of them.
PIECE_MULTIPLE = 32


def cut(segments: Sequence[Segment]) -> list[Piece]:
    """Segments cut and joined into pieces of equal size, to within one row, in the same order.

    The larger ones come first. As `datasets` deals pieces out in turn, nodes then get equally many rows, to within one.
    """
    rows = row_count(segments)
    count = min(rows, PIECE_MULTIPLE * -(-rows // (PIECE_MULTIPLE * PIECE_ROWS)))
    return _cut(segments, [rows // count + (number < rows % count) for number in range(count)])


def reordered(pieces: Sequence[Piece], order: Sequence[int]) -> list[Piece]:
    """The rows of pieces as pieces in another order, of which the larger ones come first again.

    So nodes get equally many rows in every order. Where the larger ones are others than before, the cuts between pieces
    move, by fewer rows than there are pieces.
    """
    rows = row_count(segment for piece in pieces for segment in piece)
    sizes = [0] * len(pieces)
    for place, number in enumerate(order):
        sizes[number] = rows // len(pieces) + (place < rows % len(pieces))
    again = _cut([segment for piece in pieces for segment in piece], sizes)
    return [again[number] for number in order]


def _cut(segments: Sequence[Segment], sizes: Sequence[int]) -> list[Piece]:
    """Segments cut into pieces of these numbers of rows, in the same order."""
    left = [segment for segment in reversed(segments) if segment.first < segment.last]
    pieces = []
    for room in sizes:
        piece: list[Segment] = []
        while room:
            segment = left.pop()
            taken = segment._replace(last=min(segment.first + room, segment.last))
            if taken.last < segment.last:
                left.append(segment._replace(first=taken.last))
            room -= taken.last - taken.first
            if piece and (piece[-1].shard, piece[-1].last) == (taken.shard, taken.first):
                taken = taken._replace(first=piece.pop().first)  # they were cut apart before
            piece.append(taken)
        pieces.append(tuple(piece))
    return pieces


def rows_between(segments: Iterable[Segment], first: int, last: int | None) -> Iterator[Segment]:
    """The rows of segments from the `first` to the `last` (exclusive; None for the end)."""
    before = 0
    for segment in segments:
        rows = segment.last - segment.first
        start, stop = max(first - before, 0), rows if last is None else min(last - before, rows)
        if start < stop:
            yield segment._replace(first=segment.first + start, last=segment.first + stop)
        before += rows


def sliced(segments: Mapping[str, Sequence[Segment]], split: Any) -> list[Segment]:
    """The rows that a slice of splits selects. `segments`: those of each split."""
    try:
        instruction = (
            split if isinstance(split, datasets.ReadInstruction) else datasets.ReadInstruction.from_spec(split)
        )
        ranges = instruction.to_absolute({name: row_count(rows) for name, rows in segments.items()})
    except (ValueError, AssertionError) as error:
        raise ValueError(f"split={str(split)!r}: {error}. The splits are {', '.join(segments)}") from None
    return [segment for part in ranges for segment in rows_between(segments[part.splitname], part.from_ or 0, part.to)]


def rows_of_pieces(
    pieces: Sequence[Piece],
    piece: int,
    row: int,
    read: Callable[[Iterator[Segment]], Iterable[tuple[int, pa.Table, Sequence[int]]]],
) -> Iterator[RowsRead]:
    """What `read` gives for the segments of pieces, from a row of one of them on. `read`: see Source.tables."""
    begun: dict[int, tuple[int, int]] = {}  # of each segment: its piece, and the rows of the piece before it

    def segments() -> Iterator[Segment]:
        for number in range(piece, len(pieces)):
            before, start = 0, row if number == piece else 0
            for segment in pieces[number]:
                rows = segment.last - segment.first
                if before + rows > start:
                    passed = max(start - before, 0)
                    begun[len(begun)] = number, before + passed
                    yield segment._replace(first=segment.first + passed)
                before += rows

    for number, table, positions in read(segments()):
        if table.num_rows:
            at_piece, before = begun[number]
            yield RowsRead(table, at_piece, [before + position + 1 for position in positions])


def row_count(segments: Iterable[Segment]) -> int:
    """The number of rows of segments, or of a piece."""
    return sum(segment.last - segment.first for segment in segments)


# --- rows ------------------------------------------------------------------------------------------------------------

# Bytes of images in one table. Large enough that the work per table does not count, small enough for a CPU's cache and
# for one request of a fast line.
BATCH_BYTES = 2 << 20
# Bytes of index rows that a reader keeps in memory: those of some shards. Pieces that follow one another need the same
# ones; shuffled pieces need others each time.
INDEX_KEPT = 32 << 20
IMAGE_TYPE = datasets.Image().pa_type  # struct<bytes: binary, path: string>

crc32: Callable[..., int] = zlib.crc32
with contextlib.suppress(ImportError):  # libdeflate's CRC takes 3 us for an image of 70 kB, zlib's 27 us
    crc32 = importlib.import_module("deflate").crc32


class ConvertedSource:
    """A converted dataset: tables of rows, made of index rows and byte ranges of shards."""

    counted = True

    def __init__(self, files: Files, manifest: Mapping[str, Any]) -> None:
        self.files, self.manifest, self.remote = files, manifest, files.remote
        self.shards = {shard["name"]: shard for shard in manifest["shards"]}
        self._indexes: dict[str, Index] = {}
        self._lock, self._kept = ForkSafeLock(), _KeptRows()
        files.expect(self.shards)

    def __reduce__(self) -> Any:
        return ConvertedSource, (self.files, self.manifest)

    def __str__(self) -> str:
        return str(self.files)

    @property
    def subsets(self) -> list[str]:
        return list(self.manifest["subsets"])

    def digest(self, subsets: Sequence[str]) -> str:
        return subsets_digest(self.manifest, subsets)

    def splits(self, subsets: Sequence[str]) -> list[str]:
        return split_names(self.manifest, subsets)

    def index(self, subset: str) -> Index:
        with self._lock:
            if subset not in self._indexes:
                self._indexes[subset] = Index(self.files, self.manifest, subset)
            return self._indexes[subset]

    def segments(self, subset: str, split: str, selection: Selection) -> list[Segment]:
        shards = [row for row in self.shards.values() if (row["subset"], row["split"]) == (subset, split)]
        if selection.expression is None:
            return [Segment(subset, row["name"], 0, row["samples"]) for row in shards]

        def matching(shard: Mapping[str, Any]) -> Segment:
            rows = self._index_rows(subset, shard["name"], selection, selection.columns)
            return Segment(subset, shard["name"], 0, len(selection.positions(rows)))

        return [segment for segment in self.files.in_advance(matching, shards) if segment.last]

    def values(self, subsets: Sequence[str], column: str, selection: Selection) -> pa.ChunkedArray:
        chunks = []
        for subset in subsets:
            columns, chosen = self._columns(subset, selection, [column])
            chunks += chosen(self.index(subset).table(columns))[column].chunks
        return pa.chunked_array(chunks, index_schema().field(column).type)

    def find(self, key: str) -> Segment | None:
        """Where the sample of this key is."""
        folder = key.split("/", 1)[0]
        for subset in self.subsets:
            if key_folder(subset) == folder and (place := self.index(subset).find(key)):
                shard, row = place
                return Segment(subset, shard, row, row + 1)
        return None

    def similar_keys(self, key: str) -> list[str]:
        """Up to three keys that a wrong one might have meant: they contain it, or begin and are spelled much alike.

        Reads the keys of its subset; if it names none, those of all subsets, but not over a network.
        """
        named = [subset for subset in self.subsets if key.startswith(f"{key_folder(subset)}/")]
        searched = named or ([] if self.remote else self.subsets)
        keys = pa.chunked_array(
            [chunk for subset in searched for chunk in self.index(subset).keys().chunks], pa.string()
        )
        similar, likeness = keys.filter(pc.match_substring(keys, key, ignore_case=True)), 0.0
        for length in range(len(key), -1, -1):
            if len(similar):
                break
            similar, likeness = keys.filter(pc.starts_with(keys, key[:length])), 0.5
        return difflib.get_close_matches(key, similar.slice(0, COMPARED).to_pylist(), 3, likeness)

    def tables(
        self,
        segments: Iterable[Segment],
        features: datasets.Features,
        selection: Selection,
        check: bool,
        skipped: list[Skipped] | None,
    ) -> Iterator[tuple[int, pa.Table, Sequence[int]]]:
        """See Source."""
        schema = features.arrow_schema
        for table in begun_in_advance(self.files, self._begin(segments, features, selection)):
            yield self._finish(table, schema, check, skipped)
            del table  # its buffers are free for the next one, while they are in the processor's cache

    def _begin(
        self,
        segments: Iterable[Segment],
        features: datasets.Features,
        selection: Selection,
    ) -> Iterator[_BegunTable]:
        """Tables of about BATCH_BYTES whose images have begun to be read."""

        def index_rows(segment: Segment) -> tuple[Segment, _Rows]:
            return segment, self._rows(segment, selection, features)

        # Over a network the first tables are small, so that the first row comes soon.
        start = (BATCH_BYTES >> 3, BATCH_BYTES >> 2, BATCH_BYTES >> 1) if self.remote else ()
        limits = itertools.chain(start, itertools.repeat(BATCH_BYTES))
        for number, (segment, rows) in enumerate(self.files.in_advance(index_rows, segments)):
            sizes = np.sum([places.size for places in rows.places.values()], axis=0)
            for first, last in _batches(sizes, limits):
                part = rows.slice(first, last)
                images = _images(part.places, _pages if self.files.ahead else pa.allocate_buffer)
                reading = self.files.begin(segment.shard, images.ranges)
                yield _BegunTable(number, segment.shard, first, part, images, reading)

    def _index_rows(self, subset: str, shard: str, selection: Selection, columns: Sequence[str]) -> pa.Table:
        """Index rows of a shard, with the labels that the selection chooses."""
        needed, chosen = self._columns(subset, selection, columns)
        return chosen(self.index(subset).rows(shard, needed))

    def _columns(
        self, subset: str, selection: Selection, columns: Sequence[str]
    ) -> tuple[Sequence[str], Callable[[pa.Table], pa.Table]]:
        """The index columns to read for these, and what gives them the labels that the selection chooses."""
        if not selection.chooses(subset) or not self.index(subset).has_labels_by_modality:
            return columns, lambda rows: rows
        return (
            with_label_columns(columns, selection.modalities),
            functools.partial(labels_of, modalities=selection.modalities),
        )

    def _rows(self, segment: Segment, selection: Selection, features: datasets.Features) -> _Rows:
        """What the index has of the samples of a segment."""
        modalities = [modality for modality in MODALITIES if modality in features]
        others = [name for name in features if name not in modalities]
        places = [f"{modality}_{name}" for modality in modalities for name in IMAGE_PLACE]
        subset, shard = segment.subset, segment.shard

        def read() -> pa.Table:
            needed, chosen = self._columns(subset, selection, [*others, *places, *selection.columns])
            rows = chosen(self.index(subset).unchecked_rows(shard, needed))
            return rows if selection.expression is None else rows.take(selection.positions(rows))

        def convert(rows: pa.Table) -> _Rows:
            self.index(subset).check(rows, shard)
            return _Rows(
                {name: column(rows, name, features[name]) for name in others},
                {modality: self._places(rows, shard, modality) for modality in modalities},
            )

        matching = self._kept.get((shard, *others, *places, selection), read, convert)
        if segment.last > len(matching):
            raise ReadError(
                f"{self.index(subset)}: fewer rows of {shard} match than before: it has changed. Open the dataset again"
            )
        if isinstance(matching, pa.Table):
            rows = convert(matching.slice(segment.first, segment.last - segment.first))
        else:
            rows = matching.slice(segment.first, segment.last)
        return rows.copy()  # else each piece in memory, or pickled, would hold the rows of its whole shard

    def _places(self, rows: pa.Table, shard: str, modality: str) -> _Places:
        """Where the images of a modality are. Raises ReadError for places that are not in the shard."""
        offset, size, crc = (rows[f"{modality}_{name}"].fill_null(0).to_numpy() for name in IMAGE_PLACE)
        end = self.shards[shard]["bytes"]
        if outside := np.flatnonzero((offset < 0) | (size < 0) | (size > end) | (offset > end - size)).tolist():
            row = outside[0]
            raise ReadError(
                f"{self}/{shard}: by the index the {modality} image of {rows['key'][row].as_py()} has {size[row]} "
                f"bytes at {offset[row]}, by the manifest the shard has {end} in all. Fetch index and manifest again"
            )
        names = pc.binary_join_element_wise(rows["key"].combine_chunks(), MEMBERS[modality].image, ".")
        return _Places(offset, size, crc, rows[f"{modality}_size"].is_valid().to_numpy(), names)

    def _finish(
        self, begun: _BegunTable, schema: pa.Schema, check: bool, skipped: list[Skipped] | None
    ) -> tuple[int, pa.Table, Sequence[int]]:
        """A table once its images have come, without the rows that cannot be read."""
        columns = {**begun.rows.columns, **begun.images.columns}
        table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
        positions: Sequence[int] = range(begun.first, begun.first + table.num_rows)
        wrong = begun.images.wrong(begun.reading, check)
        if skipped is None:
            self.check_size(begun.shard)
        if not wrong:
            return begun.segment, table, positions
        if skipped is None:
            row, (modality, reason) = min(wrong.items())
            raise ReadError(
                f"{self}/{begun.shard}: the {modality} image of {begun.key(row)}: {reason}. Fetch the shard "
                "again; `mmm-rs verify` finds the shards that are damaged"
            )
        for row, (modality, reason) in sorted(wrong.items()):
            sample = Skipped(begun.key(row), begun.shard, f"{modality}: {reason}")
            skipped.append(sample)
            logger.info(f"{self}/{sample.shard}: skipped {sample.key}: {sample.reason}")
        good = [row not in wrong for row in range(table.num_rows)]
        return begun.segment, table.filter(pa.array(good)), list(itertools.compress(positions, good))

    def check_size(self, shard: str) -> None:
        """Raises ReadError if a shard is absent or does not have the size that the manifest says."""
        expected = self.shards[shard]["bytes"]
        try:
            size = self.files.size(shard)
        except FileNotFoundError:
            raise ReadError(f"{self}/{shard}: not found; the manifest says {expected} bytes. Fetch it again") from None
        if size not in (None, expected):
            raise ReadError(
                f"{self}/{shard}: has {size} bytes, the manifest says {expected}: it is cut short or of another "
                "conversion. Fetch it again; `mmm-rs verify` finds the shards that are damaged"
            )


class _Places(NamedTuple):
    """The places of one modality's images in a shard, one per row; 0 for a row without such an image."""

    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    present: np.ndarray
    names: pa.Array  # which the images have in the shard


@dataclass(frozen=True)
class _Rows:
    """What the index has of some samples of a shard."""

    columns: Mapping[str, pa.Array]  # all but the images, in the builder's types
    places: Mapping[str, _Places]  # of images, by modality

    def __len__(self) -> int:
        return len(self.columns["key"])

    @property
    def nbytes(self) -> int:
        values = [*self.columns.values(), *itertools.chain.from_iterable(self.places.values())]
        return sum(part.nbytes for part in values)

    def slice(self, first: int, last: int) -> _Rows:
        return self._each(lambda values: values[first:last])

    def copy(self) -> _Rows:
        return self._each(lambda values: pa.concat_arrays([values]) if isinstance(values, pa.Array) else values.copy())

    def _each(self, call: Callable[[Any], Any]) -> _Rows:
        return _Rows(
            {name: call(values) for name, values in self.columns.items()},
            {modality: _Places(*map(call, places)) for modality, places in self.places.items()},
        )


class _KeptRows:
    """Index rows of shards in memory: those that were used last. The first thread that asks for some reads them."""

    def __init__(self) -> None:
        self._slots: OrderedDict[Any, _Slot] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(self, key: Any, read: Callable[[], pa.Table], convert: Callable[[pa.Table], _Rows]) -> pa.Table | _Rows:
        """The rows of a shard that match: the first time as they were read, from then on converted.

        Pieces that follow one another need the same rows again and again; shuffled ones need a few rows, once.
        """
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            rows = slot.rows
            if not isinstance(rows, _Rows):
                rows = slot.rows = read() if rows is None else convert(rows)
                slot.size = rows.nbytes
        with self._lock:
            while len(self._slots) > 1 and sum(other.size for other in self._slots.values()) > INDEX_KEPT:
                self._slots.popitem(last=False)
        return rows


class _Slot:
    def __init__(self) -> None:
        self.lock = ForkSafeLock()
        self.rows: pa.Table | _Rows | None = None
        self.size = 0  # bytes


def _open_converted(
    data_dir: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
    token: bool | str | None,
    revision: str | None,
    **settings: Any,
) -> ConvertedSource:
    """The source of a converted dataset. Raises ReadError for anything else."""
    if revision is not None:
        data_dir = dataset_address(data_dir, revision)
    source = open_source(data_dir, storage_options, token, **settings)
    if not isinstance(source, ConvertedSource):
        raise ReadError(f"{source}: is not converted: it has neither shards nor an index. Convert the release first")
    return source


class BeingRead(Protocol):
    """Something that waits for bytes."""

    @property
    def size(self) -> int:
        """How many."""

    @property
    def reading(self) -> Reading:
        """Where they come from."""


Begun = TypeVar("Begun", bound=BeingRead)


def begun_in_advance(files: Files, coming: Iterator[Begun]) -> Iterator[Begun]:
    """What comes, in order, each to be waited for now. The next ones are begun as far as `files` allow it.

    An error of `coming` is raised when everything before it has been given.
    """
    begun: deque[Begun] = deque()
    trouble: Exception | None = None
    under_way, more = 0, True
    with files.read_ahead() as allowed:
        try:
            while True:
                while more and (not begun or under_way <= allowed()):
                    try:
                        begun.append(next(coming))
                        under_way += begun[-1].size
                    except StopIteration:
                        more = False
                    except Exception as error:
                        more, trouble = False, error
                if not begun:
                    break
                under_way -= begun[0].size
                yield begun.popleft()
            if trouble:
                raise trouble
        finally:
            for waiting in begun:
                waiting.reading.cancel()


class _BegunTable(NamedTuple):
    """A table whose images are being read."""

    segment: int  # its position among the segments
    shard: str
    first: int  # the table's first row in the segment
    rows: _Rows
    images: _Images
    reading: Reading

    @property
    def size(self) -> int:
        return self.images.size

    def key(self, row: int) -> str:
        return self.rows.columns["key"][row].as_py()


class _Images(NamedTuple):
    """Columns of images over buffers that are yet to be filled, and what belongs in them."""

    columns: Mapping[str, pa.Array]
    size: int  # bytes of all images
    ranges: ByteRanges
    targets: list[memoryview]  # one per image
    owners: list[tuple[str, int]]  # the modality and row of each image
    crcs: np.ndarray  # of each image

    def wrong(self, reading: Reading, check: bool) -> dict[int, tuple[str, str]]:
        """What is wrong with the images once they have been read: row -> (modality, reason)."""
        try:
            reasons = {self.ranges.order[number]: reason for number, reason in reading.result().items()}
        except OSError as error:  # a missing file, no permission, a bad disk: none of the images came
            if error.errno in (errno.EMFILE, errno.ENFILE):  # not damage, so nothing may be skipped for it
                raise ReadError(f"{in_one_line(error)}. Allow more open files (`ulimit -n 4096`)") from error
            reasons = dict.fromkeys(range(len(self.owners)), in_one_line(error))
        if check:
            for number, (crc, target) in enumerate(zip(self.crcs.tolist(), self.targets, strict=True)):
                if number in reasons:
                    continue
                if not reading.is_proven and crc32(target) != crc:
                    reasons[number] = f"its CRC is not {crc:#010x}, as the index says: its bytes are damaged"
                elif fault := image_fault(target):
                    reasons[number] = fault
        by_row: dict[int, tuple[str, str]] = {}
        for number in sorted(reasons):
            modality, row = self.owners[number]
            by_row.setdefault(row, (modality, reasons[number]))
        return by_row


def _images(places: Mapping[str, _Places], room: Callable[[int], pa.Buffer]) -> _Images:
    """Columns for the images of some rows. `room` gives memory."""
    columns, targets, owners, begin = {}, [], [], 0
    total = sum(int(located.size.sum()) for located in places.values())
    memory = room(total)
    whole = memoryview(memory).cast("B")
    for modality, located in places.items():
        ends = np.cumsum(located.size)
        data, view = memory.slice(begin, int(ends[-1])), whole[begin:]
        begin += data.size
        present = np.flatnonzero(located.present)
        bounds = zip(ends[present].tolist(), located.size[present].tolist(), strict=True)
        targets += [view[end - length : end] for end, length in bounds]
        owners += [(modality, row) for row in present.tolist()]
        starts = pa.py_buffer(np.concatenate([[0], ends]).astype(np.int32))
        encoded = pa.Array.from_buffers(pa.binary(), len(ends), [None, starts, data])
        absent = None if len(present) == len(ends) else pa.array(~located.present)
        columns[modality] = pa.StructArray.from_arrays([encoded, located.names], fields=list(IMAGE_TYPE), mask=absent)
    offset, size, crc = (
        np.concatenate([getattr(located, name)[located.present] for located in places.values()]) for name in IMAGE_PLACE
    )
    return _Images(columns, total, ByteRanges.of(offset, size, targets, crc), targets, owners, crc)


def _pages(size: int) -> pa.Buffer:
    """Memory in pages of its own, which go back to the system with it. A forked child has a copy.

    Read ahead, many tables are in memory, and allocators keep what those that are gone have used: 100 MB of it were
    seen. Memory that is used again would do the same, for tables that are yet to come. On a disk the cost of fresh
    pages would be seen.
    """
    if size and hasattr(mmap, "MAP_PRIVATE"):
        return pa.py_buffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    return pa.py_buffer(np.empty(size, np.uint8))  # Windows


# What an image may be, as Pillow calls it (and MPO, which it reads as JPEG). Other formats, such as EPS and PDF, would
# start programs or render documents: the bytes of a stranger's dataset must not choose them.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000")
_SIGNATURES = (
    b"\xff\xd8",
    b"\x89PNG",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"BM",
    b"GIF8",
    b"RIFF",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
# Scans of one JPEG. Encoders make up to some 20; each further one costs a pass over the whole image, so a few hundred
# kilobytes could keep a decoder busy for minutes.
MOST_SCANS = 100


def image_fault(data: bytes | memoryview) -> str | None:
    """Why a decoder should not be given these bytes; None if nothing speaks against it. Takes about a microsecond."""
    if _STANDARD_JPEG.match(data):
        return None
    head = bytes(data[:1024])
    if not head.startswith(b"\xff\xd8"):
        return None if head.startswith(_SIGNATURES) else f"it begins with {head[:8]!r}: not a known image format"
    if _is_of_one_scan(head):
        return None
    scans = bytes(data).count(b"\xff\xda")
    return f"it is a JPEG of {scans} scans: more than {MOST_SCANS} are not decoded" if scans > MOST_SCANS else None


# What most JPEGs begin with: JFIF's header, tables for quantization, the size, the standard's Huffman tables, and the
# start of a scan with all three components. They are recognised in a fifth of the time that `_is_of_one_scan` takes.
_STANDARD_JPEG = re.compile(
    rb"(?s)\xff\xd8(?:\xff\xe0\x00\x10.{14})?(?:\xff\xdb\x00\x43.{65})+\xff[\xc0\xc1]\x00\x11.{5}\x03.{9}"
    rb"(?:\xff\xc4\x00\x1f.{29}\xff\xc4\x00\xb5.{179}){2}\xff\xda\x00\x0c\x03"
)


def _is_of_one_scan(head: bytes) -> bool:
    """Whether a baseline JPEG begins so, and its first scan holds all components: then decoders read no further one."""
    position, components = 2, 0
    while position + 9 < len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if marker in (0xC0, 0xC1):  # baseline, extended
            components = head[position + 9]
        elif marker == 0xDA:  # start of scan
            return head[position + 4] == components
        position += 2 + (head[position + 2] << 8 | head[position + 3])
    return False


def open_image(data: bytes) -> PIL.Image.Image:
    """The image in `data`, opened as one of IMAGE_FORMATS and not decoded yet.

    Raises PIL.UnidentifiedImageError for other bytes, and for a JPEG with too many scans.
    """
    if fault := image_fault(data):
        raise PIL.UnidentifiedImageError(fault)
    return PIL.Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)


def column(rows: pa.Table, name: str, feature: Any) -> pa.Array:
    """An index column in the builder's type. Raises ReadError for a label that the feature does not know."""
    values = rows[name].combine_chunks()
    if isinstance(feature, datasets.ClassLabel):
        labels = pc.index_in(values, value_set=pa.array(feature.names))
        if labels.null_count != values.null_count:
            unknown = pc.unique(values.filter(pc.and_(labels.is_null(), values.is_valid()))).to_pylist()
            raise ReadError(
                f"index, column {name}: {unknown} are none of {feature.names}. It was written by another version: "
                "convert again, or use the mmm_rs.py that comes with the data"
            )
        return labels.cast(pa.int64())
    if isinstance(feature, dict):
        return pa.StructArray.from_arrays([pc.struct_field(values, part) for part in feature], names=list(feature))
    return values


def _batches(sizes: np.ndarray, limits: Iterator[int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of rows that together have at most so many bytes, but of one row at least."""
    first, total, most = 0, 0, next(limits)
    for row, size in enumerate(sizes.tolist()):
        if row > first and total + size > most:
            yield first, row
            first, total, most = row, 0, next(limits)
        total += size
    if first < len(sizes):
        yield first, len(sizes)


# --- what load_dataset, get, info and webdataset give ----------------------------------------------------------------


def _streaming_builder(make: Callable[..., MMMRS], cache_dir: str | None) -> MMMRS:
    """A builder that only streams. `datasets` makes a cache folder for it; a read-only home must not prevent that."""
    try:
        return make(cache_dir=cache_dir)
    except OSError:
        folder = tempfile.mkdtemp(prefix="mmm-rs-")
        builder = make(cache_dir=folder)
        weakref.finalize(builder, shutil.rmtree, folder, ignore_errors=True)
        return builder


def key_hint(source: ConvertedSource, key: str) -> str:
    """What a key that does not exist may have meant."""
    similar = source.similar_keys(key)
    return f"Similar: {', '.join(similar)}" if similar else "Keys are `<Subset>/<path>`; the index lists them"


class InfoRow(NamedTuple):
    """What one split of a config holds."""

    config: str
    split: str
    samples: int
    bytes: int  # of its shards
    pairs: Mapping[str, int]  # by modality
    levels: Mapping[str, int]  # samples by GSD level


def info_rows(source: ConvertedSource, subset: str) -> Iterator[InfoRow]:
    """What each split of a subset holds, by the manifest and the index."""
    levels = source.index(subset).table(["split", "gsd_level"])
    for split, totals in source.manifest["subsets"][subset]["splits"].items():
        counted = pc.value_counts(levels.filter(pc.equal(levels["split"], split))["gsd_level"]).to_pylist()
        by_level = {entry["values"]: entry["counts"] for entry in counted}
        ordered = {level: by_level[level] for level in GSD_LEVELS if level in by_level}
        yield InfoRow(subset, split, totals["samples"], totals["bytes"], totals["pairs"], ordered)


@dataclass(frozen=True)
class Info:
    """What a converted dataset holds: a table, as text or in a notebook."""

    source: str
    rows: tuple[InfoRow, ...]

    HEAD: ClassVar = ("config", "split", "samples", "size", *(f"{m.upper()} pairs" for m in MODALITIES), "GSD levels")

    def __iter__(self) -> Iterator[InfoRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def _cells(self) -> list[list[str]]:
        total = InfoRow(
            ALL,
            "",
            sum(row.samples for row in self.rows),
            sum(row.bytes for row in self.rows),
            {modality: sum(row.pairs[modality] for row in self.rows) for modality in MODALITIES},
            {level: sum(row.levels.get(level, 0) for row in self.rows) for level in GSD_LEVELS},
        )
        return [
            [
                row.config,
                row.split,
                f"{row.samples:,}",
                _decimal_size(row.bytes),
                *(f"{row.pairs[modality]:,}" if row.pairs[modality] else "" for modality in MODALITIES),
                ", ".join(f"{level} {count:,}" for level, count in row.levels.items() if count),
            ]
            for row in [*self.rows, total]
        ]

    def __str__(self) -> str:
        lines = [list(self.HEAD), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        ends = len(widths) - 1  # the columns between the first two and the last have numbers
        texts = [
            "  ".join(
                cell.rjust(width) if 2 <= place < ends else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.source, *texts])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.HEAD)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in self._cells()
        )
        return f"<table><caption>{html.escape(self.source)}</caption><tr>{head}</tr>{body}</table>"


def _decimal_size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class _ShardSamples:
    """A stage of a webdataset pipeline: names of shards in, samples out. Each shard that is read to its end is compared
    with what the manifest says of it."""

    def __init__(self, source: ConvertedSource) -> None:
        self.source = source

    def __call__(self, shards: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for shard in shards:
            name, count, problem = shard["url"], 0, None
            self.source.check_size(name)
            expected = self.source.shards[name]
            with contextlib.closing(_ShardBytes(self.source.files, name)) as stream:
                try:
                    for sample in group_by_keys(tar_file_expander([{"url": name, "stream": stream}])):
                        count += 1
                        yield sample
                    if count != expected["samples"]:
                        problem = f"{count} samples came, the manifest says {expected['samples']}"
                    elif stream.sha256() != expected["sha256"]:
                        problem = "its sha256 is not that of the manifest: its bytes are damaged"
                except Exception as error:
                    if stream.failure is not None:  # webdataset has added objects to the error's arguments
                        raise ReadError(stream.failure) from None
                    problem = f"cannot be read as a tar: {in_one_line(error)}"
            if problem is not None:
                self.source.files.discard(name)
                raise ReadError(
                    f"{self.source}/{name}: {problem}. Fetch the shard again; `mmm-rs verify` finds the shards that "
                    "are damaged"
                )


class _ShardBytes:
    """A shard that is read from its beginning to its end, and its digest."""

    def __init__(self, files: Files, name: str) -> None:
        self._label, self._digest = f"{files}/{name}", hashlib.sha256()
        self.failure: str | None = None  # why it cannot be read any further
        self._stream = files.stream(name)

    def read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except ReadError as error:
            self.failure = str(error)
            raise
        except OSError as error:
            self.failure = f"{self._label}: cannot be read: {in_one_line(error)}"
            raise
        self._digest.update(data)
        return data

    def sha256(self) -> str:
        """The digest of the whole shard, also of what readers of tars leave unread at its end."""
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        self._stream.close()


# --- files -----------------------------------------------------------------------------------------------------------

# Wanted ranges of one shard that are this close, in bytes, are read as one. Between two images that follow one another
# are their texts, 2 to 6 kB; an image of another modality is ten times as long, so it is never read for nothing. On a
# local disk skipping this much costs about as much as another system call. Over a network another request would cost
# far more, but there the promise counts that little more is transferred than was asked for.
GAP = 16 << 10


@dataclass(frozen=True)
class ByteRanges:
    """Byte ranges of one file in the order of the file, and the buffers that they are read into."""

    offsets: list[int]
    sizes: list[int]
    targets: list[memoryview]
    order: list[int]  # the position of each before it was sorted
    crcs: list[int] | None = None  # the CRC that the index says of each, for files that keep what they have read

    @classmethod
    def of(
        cls, offsets: np.ndarray, sizes: np.ndarray, targets: Sequence[memoryview], crcs: np.ndarray | None = None
    ) -> ByteRanges:
        order = np.argsort(offsets, kind="stable")
        numbers = order.tolist()
        return cls(
            offsets[order].tolist(),
            sizes[order].tolist(),
            [targets[number] for number in numbers],
            numbers,
            None if crcs is None else crcs[order].tolist(),
        )

    def joined(self, longest: int, most: int) -> Iterator[tuple[int, int]]:
        """(first, last + 1) of ranges to be read as one: at most `most` of them, `longest` bytes, no gap above GAP."""
        first, offsets, sizes = 0, self.offsets, self.sizes
        for number in range(1, len(offsets)):
            gap = offsets[number] - offsets[number - 1] - sizes[number - 1]
            together = offsets[number] + sizes[number] - offsets[first]
            if not 0 <= gap <= GAP or together > longest or number - first >= most:
                yield first, number
                first = number
        if offsets:
            yield first, len(offsets)

    def came_short(self, number: int, size: int) -> str:
        """The reason for a range of which only `size` bytes came."""
        return f"{size} of {self.sizes[number]} bytes at {self.offsets[number]} came"


@dataclass(frozen=True)
class ReadingLater:
    """A reading that happens when its result is asked for."""

    result: Callable[[], Mapping[int, str]]
    is_proven = False

    def cancel(self) -> None:
        pass


class LocalFiles:
    """Files of a folder on a local disk. See Files for the methods.

    A version of `datasets` that replaces `open` and `os.path` in this module all the same takes `::` in a path for a
    chain of file systems; `io.open` and plain text stay what they are.
    """

    remote = ahead = False

    def __init__(self, root: str) -> None:
        self.root = root

    def __str__(self) -> str:
        return self.root

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read_ahead(self) -> contextlib.AbstractContextManager[Callable[[], int]]:
        return contextlib.nullcontext(lambda: 0)

    def expect(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def read(self, name: str) -> bytes:
        with io.open(self.path(name), "rb") as file:  # noqa: UP020
            return file.read()

    def size(self, name: str) -> int:
        return os.stat(self.path(name)).st_size

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with io.open(self.path(name), "rb") as file:  # noqa: UP020
            return [self._read_range(file, start, stop) for start, stop in ranges]

    def _read_range(self, file: BinaryIO, start: int, stop: int) -> bytes:
        file.seek(start)
        data = file.read(stop - start)
        if len(data) != stop - start:
            raise OSError(f"{len(data)} of {stop - start} bytes at {start} came")
        return data

    def stream(self, name: str) -> BinaryIO:
        return io.open(self.path(name), "rb")  # noqa: UP020

    def discard(self, name: str) -> None:
        pass

    def begin(self, name: str, ranges: ByteRanges) -> Reading:
        return ReadingLater(lambda: self._fill(name, ranges))

    def in_advance(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(call, items)

    def _fill(self, name: str, ranges: ByteRanges) -> dict[int, str]:
        wrong: dict[int, str] = {}
        fd = os.open(self.path(name), os.O_RDONLY)
        try:
            for first, last in ranges.joined(1 << 30, JOINED):
                if read_joined(fd, ranges, first, last) == ranges.offsets[last - 1] + ranges.sizes[last - 1]:
                    continue
                for number in range(first, last):  # short, so one by one: which of them are there?
                    size = os.preadv(fd, [ranges.targets[number]], ranges.offsets[number])
                    if size != ranges.sizes[number]:
                        wrong[number] = ranges.came_short(number, size)
        finally:
            os.close(fd)
        return wrong


# Ranges that one system call fills at most, for between two of them is a gap; 0 where there is no such call (Windows).
JOINED = os.sysconf("SC_IOV_MAX") // 2 if hasattr(os, "preadv") else 0
_GAP = memoryview(bytearray(GAP))  # what stands in gaps is written here; nobody reads it


def read_joined(fd: int, ranges: ByteRanges, first: int, last: int) -> int:
    """Fill the buffers of some joined ranges of a file, at most JOINED. Returns the place up to which the bytes came:
    buffers beyond it hold what was in this memory before."""
    position, vectors = ranges.offsets[first], []
    for number in range(first, last):
        if ranges.offsets[number] > position:
            vectors.append(_GAP[: ranges.offsets[number] - position])
        vectors.append(ranges.targets[number])
        position = ranges.offsets[number] + ranges.sizes[number]
    return ranges.offsets[first] + os.preadv(fd, vectors, ranges.offsets[first])


class FsspecFiles:
    """Files of a folder behind any fsspec URL, read one range after another. See Files for the methods.

    The length of each answer is checked here and the images' CRC by the reader of rows, because file systems take what
    a server answers for what was asked. Whether requests are tried again is up to the file system.
    """

    remote, ahead = True, False

    def __init__(self, url: str, options: Mapping[str, Any], token: bool | str | None = None) -> None:
        self.url, self.options = url.rstrip("/"), dict(options)
        if url.startswith("hf://") and token is not None:
            self.options.setdefault("token", token)
        try:
            self._connect()
        except OSError as error:
            raise ReadError(f"{self}: cannot be reached: {in_one_line(error)}. Check the address") from None

    def __reduce__(self) -> Any:
        return FsspecFiles, (self.url, self.options)

    def __str__(self) -> str:
        return without_login(self.url)

    def _connect(self) -> None:
        thread = fsspec.asyn.iothread[0]
        if thread is not None and not thread.is_alive():  # a fork left it behind, and older versions would wait for it
            fsspec.asyn.reset_lock()
        self._fs, root = fsspec.core.url_to_fs(self.url, **self.options)
        self._root, self._process = root.rstrip("/"), os.getpid()
        # The hub's file system would read 5 MB ahead for each range.
        self._plain = {"cache_type": "none"} if "hf" in self._fs.protocol else {}

    def _range(self, name: str, start: int | None, stop: int | None) -> bytes:
        if self._process != os.getpid():  # a forked process cannot use the connections of its parent
            self._connect()
        try:
            data = self._fs.cat_file(f"{self._root}/{name}", start=start, end=stop, **self._plain)
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has its own, and not all are OSError
            raise ReadError(f"{self}/{name}: cannot be read: {without_login(in_one_line(error))}") from error
        if start is not None and stop is not None and len(data) > stop - start:
            raise ReadError(
                f"{self}/{name}: bytes {start} to {stop} were asked for and {len(data)} came: this server ignores "
                "range requests. Download the files, then give their folder as data_dir"
            )
        return data

    def read_ahead(self) -> contextlib.AbstractContextManager[Callable[[], int]]:
        return contextlib.nullcontext(lambda: 0)

    def expect(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def read(self, name: str) -> bytes:
        return self._range(name, None, None)

    def size(self, name: str) -> int | None:
        if self._process != os.getpid():
            self._connect()
        return self._fs.info(f"{self._root}/{name}").get("size")

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        parts = [self._range(name, start, stop) for start, stop in ranges]
        for (start, stop), part in zip(ranges, parts, strict=True):
            if len(part) != stop - start:
                raise ReadError(f"{self}/{name}: {len(part)} of {stop - start} bytes at {start} came")
        return parts

    def stream(self, name: str) -> BinaryIO:
        return io.BufferedReader(RangesFile(self, name, self._range), BATCH_BYTES)

    def discard(self, name: str) -> None:
        pass

    def begin(self, name: str, ranges: ByteRanges) -> Reading:
        return ReadingLater(lambda: self._fill(name, ranges))

    def in_advance(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(call, items)

    def _fill(self, name: str, ranges: ByteRanges) -> dict[int, str]:
        wrong: dict[int, str] = {}
        for first, last in ranges.joined(BATCH_BYTES, len(ranges.offsets)):
            start, stop = ranges.offsets[first], ranges.offsets[last - 1] + ranges.sizes[last - 1]
            wrong |= scatter(ranges, first, last, self._range(name, start, stop))
        return wrong


def scatter(ranges: ByteRanges, first: int, last: int, data: bytes | memoryview) -> dict[int, str]:
    """Copy what was read from the first of some joined ranges on into their buffers. Returns what is wrong."""
    wrong, start, view = {}, ranges.offsets[first], memoryview(data)
    for number in range(first, last):
        part = view[ranges.offsets[number] - start :][: ranges.sizes[number]]
        if len(part) == ranges.sizes[number]:
            ranges.targets[number][:] = part
        else:
            wrong[number] = ranges.came_short(number, len(part))
    return wrong


class RangesFile(io.RawIOBase):
    """A remote file for readers that know what they want: no read-ahead, no cache."""

    def __init__(self, files: Files, name: str, fetch: Callable[[str, int, int], bytes]) -> None:
        size = files.size(name)
        if size is None:
            raise ReadError(
                f"{files}/{name}: the server does not report its size. Download the files, then give their folder as "
                "data_dir"
            )
        self._label, self._name, self._size, self._fetch, self._position = f"{files}/{name}", name, size, fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        start, stop = self._position, self._size if size < 0 else min(self._position + size, self._size)
        if stop <= start:
            return b""
        data = self._fetch(self._name, start, stop)
        if len(data) != stop - start:
            raise ReadError(
                f"{self._label}: {len(data)} of {stop - start} bytes at {start} came: it is cut short. Try again, or "
                "upload it again"
            )
        self._position = stop
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


# --- what `datasets` keeps private -----------------------------------------------------------------------------------

# Nothing private stands outside of this section. It makes rows two to three times as fast as the public way, resumes in
# the middle of a piece and decodes late. If a version of `datasets` changes these parts, the builder warns once and
# reads by the public way: slower, but right.

# For streams `datasets` would replace `open`, `os.path` and others in this module by functions that also read what is
# remote, and import scipy for that. Files are read by `Files` here. This says that it has been done.
_patched_for_streaming = True

_private: Any = None
with contextlib.suppress(ImportError):
    _private = importlib.import_module("datasets.iterable_dataset")
_Base: Any = getattr(_private, "_BaseExamplesIterable", object)


def _piece_examples(builder: MMMRS, pieces: list[Piece]) -> Any:
    """The rows of a split for an IterableDataset. Raises AttributeError or TypeError if `datasets` does not have, or
    wants more than, what this section knows."""
    if _Base is object:
        raise AttributeError("_BaseExamplesIterable is gone")
    for source in (_private.ExamplesIterable, _private.ArrowExamplesIterable):
        known = {*dir(PieceExamples), "__slotnames__"}  # which copying an object leaves in its class
        if unknown := [name for name in vars(source) if name not in known]:
            raise TypeError(f"{source.__name__} has {', '.join(unknown)}")
    return PieceExamples(builder, pieces)


_warned: list[str] = []


def _warn_of_slow_rows(error: BaseException) -> None:
    if not _warned:
        _warned.append(in_one_line(error))
        logger.warning(
            f"datasets {datasets.__version__} is newer than this mmm_rs.py knows ({_warned[0]}): streaming is slower, "
            "the rows are the same. Update mmm_rs.py"
        )


def _empty_dataset(info: datasets.DatasetInfo, split: Any) -> datasets.Dataset | None:
    """A dataset without rows, if the split has none: for `datasets` that is an error."""
    counted = (info.splits or {}).get(str(split))
    if counted is None or counted.num_examples:
        return None
    return datasets.Dataset(
        info.features.arrow_schema.empty_table(), info=info.copy(), split=datasets.NamedSplit(str(split))
    )


class PieceExamples(_Base):  # type: ignore[misc]
    """The rows of a split for an `IterableDataset`: what `datasets` makes of a builder's tables by itself, but

    - a resumed stream starts in the middle of a piece by the index, where `datasets` would read from the beginning;
    - rows are made in the types that the dataset has, so that `datasets` leaves out its formatting stage;
    - images are decoded when they are first looked at;
    - it knows when iteration has finished, so that it can list what was skipped.

    The state is the number of pieces done and of the next one's rows done.
    """

    _sleep_on_threads_shutdown = False  # `datasets` 5.2 asks each of its sources; no thread of pyarrow's reads here

    def __init__(self, builder: MMMRS, pieces: list[Piece], encoded: bool = False) -> None:
        super().__init__()
        self.builder, self.pieces, self.encoded = builder, pieces, encoded

    def __deepcopy__(self, memo: dict[int, Any]) -> PieceExamples:
        # `datasets` copies deeply to mix several datasets, and takes the first one's word for the rows of all.
        return PieceExamples(self.builder, self.pieces, encoded=True)

    @property
    def iter_arrow(self) -> Any:
        return self._iter_arrow

    @property
    def features(self) -> datasets.Features | None:
        """What the rows of `__iter__` have already, so that nothing is left to do; None: they are as in Arrow."""
        decode = self.builder.config.decode
        return self.builder.info.features if not self.encoded and (not decode or _may_decode()) else None

    @property
    def num_shards(self) -> int:
        return max(1, len(self.pieces))

    n_shards = num_shards  # its name before 3.0

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = {"piece": 0, "row": 0, "type": type(self).__name__}
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        decode = self.features is not None and self.builder.config.decode
        for state, read in self._read():
            columns = read.table.to_pydict()
            for modality in MODALITIES if decode else ():
                if modality in columns:
                    columns[modality] = map(_open_image, columns[modality])
            names = list(columns)
            for count, values in zip(read.counts, zip(*columns.values(), strict=True), strict=True):
                state["row"] = count
                yield f"{read.piece}_{count}", dict(zip(names, values, strict=True))

    def _iter_arrow(self) -> Iterator[tuple[str, pa.Table]]:
        for state, read in self._read():
            state["row"] = read.counts[-1]
            yield f"{read.piece}_{read.counts[-1]}", read.table

    def _read(self) -> Iterator[tuple[dict[str, Any], RowsRead]]:
        state: dict[str, Any] = self._state_dict or {"piece": 0, "row": 0}
        if self.builder.config.decode:
            _keep_image_memory()
        with contextlib.closing(self.builder.tables(self.pieces, state["piece"], state["row"])) as tables:
            for read in tables:
                state["piece"] = read.piece
                yield state, read
        state["piece"], state["row"] = len(self.pieces), 0

    def shuffle_data_sources(self, generator: np.random.Generator) -> PieceExamples:
        order = copy.deepcopy(generator).permutation(len(self.pieces)).tolist()
        return PieceExamples(self.builder, reordered(self.pieces, order) if order else [], self.encoded)

    def shard_data_sources(self, *args: Any, **kwargs: Any) -> PieceExamples:
        numbers = self.split_shard_indices_by_worker(*args, **kwargs)  # its arguments differ between versions
        pieces = [self.pieces[number] for number in numbers if number < len(self.pieces)]
        return PieceExamples(self.builder, pieces, self.encoded)

    def reshard_data_sources(self) -> PieceExamples:
        return self


def _may_decode() -> bool:
    """Whether an `IterableDataset` may be given decoded images. Then it must take all but whole rows from Arrow tables:
    if a wrapper has rows only (before 5.0), `map` behind it would encode the images again, with loss."""
    wrappers = [
        wrapper
        for wrapper in _Base.__subclasses__()
        if wrapper not in (PieceExamples, _private.ExamplesIterable, _private.ArrowExamplesIterable)
    ]
    return all({"iter_arrow", "features"} <= vars(wrapper).keys() for wrapper in wrappers)


def _keep_image_memory() -> None:
    """Let Pillow use the memory of an image again for the next one, unless PILLOW_BLOCKS_MAX says how much of it.

    Otherwise Pillow frees it and, by chance, the C library gives it back to the system each time: then an image of 512
    pixels costs 300 page faults, a third of its decoding. See Pillow's "Block allocator".
    """
    if PIL.Image.core.get_blocks_max() == 0 and "PILLOW_BLOCKS_MAX" not in os.environ:
        PIL.Image.core.set_blocks_max(2)  # each of up to 16 MB


def _open_image(stored: dict[str, Any] | None) -> PIL.Image.Image | None:
    """The image as the `Image` feature gives it, but decoded when it is first looked at: shuffle buffers stay small."""
    if stored is None:
        return None
    image = open_image(stored["bytes"])
    if image.getexif().get(_ORIENTATION) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    return image


_ORIENTATION = 0x0112  # Exif's tag
