"""Decoded batches for training: one process that keeps all cores and the line busy.

    from mmm_rs_loader import batches
    for batch in batches("SEN1-2", "hf://datasets/org/MMM-RS", batch_size=64, size=256, shuffle=1000, to="torch"):
        batch["rgb"], batch["sar"], batch["prompt"]

How it works:
- The index says how many samples there are, so an epoch is planned before anything is read: which sample is in which
  batch, for every rank. The plan is a function of the arguments and the epoch. Ranks therefore have equally many
  batches, a stream continues at any batch, and the workers of a DataLoader share the batches of one process.
- One thread, the *reader*, reads the rows in the order of the shards and keeps the encoded images until their batch is
  complete. What is kept is bounded by `shuffle`.
- The *decoders*, one per core, work on one batch together. They write the pixels into the batch's arrays.
- The consumer takes the batches in order. The reader waits while two are ready or being decoded: the decoders go on
  while one of them waits for the consumer. With more than eight decoders, one for each four of them. With one or two,
  and batches of many MB, only one is decoded while the consumer works on another.

`simplejpeg` decodes: libjpeg-turbo without the interpreter's lock, which can also scale. It gives the same pixels as
Pillow. What it refuses, and what it would decode differently, goes to Pillow.
"""

from __future__ import annotations

import atexit
import bisect
import contextlib
import ctypes
import functools
import io
import itertools
import math
import operator
import os
import queue
import re
import struct
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg

import mmm_rs

logger = datasets.utils.logging.get_logger(__name__)


def batches(
    config: str,
    data_dir: str | os.PathLike[str],
    batch_size: int = 64,
    *,
    split: str = "train",
    size: int | None = None,
    modalities: Sequence[str] | None = None,
    filters: Any = None,
    contains: str | Sequence[str] | None = None,
    complete: bool = True,
    shuffle: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    to: str = "numpy",
    pin_memory: bool = False,
    threads: int | None = None,
    on_error: str = "raise",
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
    local_cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> Batches:
    """Batches of decoded images with their prompts and labels, of a converted dataset.

    Args:
        config: A subset's name, or "all".
        data_dir: A converted folder: local, `hf://datasets/org/MMM-RS`, or any fsspec URL.
        batch_size: Samples per batch.
        split: The split to read.
        size: Width and height of the images that come, in pixels. Other sizes are scaled to it while they are decoded,
            without regard to their aspect ratio. None keeps the size; the images of a batch must then all have
            the same size.
        modalities: The images to read, of rgb, nir and sar. None for all that the config has.
        filters: Rows to read, as for `mmm_rs.load_dataset`.
        contains: Texts that the prompts must contain, as for `mmm_rs.load_dataset`.
        complete: Only samples that have every chosen modality. False: all that have one of them; an image that a sample
            lacks is zeros, and `<modality>_mask` says where there is one.
        shuffle: Samples to mix: a sample moves by fewer than this many places, and runs of about 100 samples are
            shuffled over the whole epoch. About as many encoded images are kept in memory. 0 keeps the order of the
            shards.
        seed: Of the shuffling. `set_epoch` gives each epoch another order.
        rank: Number of this process among those that train together, from 0.
        world_size: The number of processes. Each of them gets the same number of batches. A sample occurs in one of
            them; only where ranks would differ by a batch, up to `world_size - 1` samples occur in two.
        drop_last: Leave out the last batch if it is smaller than the others.
        to: "numpy" or "torch".
        pin_memory: For torch: decode into page-locked memory, which is copied to a GPU faster and asynchronously.
        threads: Threads that decode. None for one per core. In a worker of a DataLoader there is no thread but its own.
        on_error: "raise" for a sample that is damaged or missing, or "skip": its batch is smaller by it, it is listed
            in `skipped`, and a warning at the end names all of them.
        revision: A branch, tag or commit, for a dataset on the hub: the same as `hf://datasets/org/MMM-RS@revision`.
        token: For a private repository on the hub.
        storage_options: For fsspec.
        local_cache: A folder of this node that keeps what was fetched for the next epoch, as for `mmm_rs.load_dataset`.
        cache_limit: What it may take up, for example "200GB".

    Returns:
        An iterable of dictionaries with the columns of `mmm_rs.features`. Images are `uint8` arrays (batch, height,
        width, 3), or for torch tensors (batch, 3, height, width) in the memory format "channels last". Numbers are
        arrays (for torch `float32`); a missing one is NaN, a missing class -1, a missing truth value False. `key`,
        prompts and other texts are lists, with None for a missing one.

    Raises:
        ValueError: For an argument that does not fit.
        mmm_rs.ReadError: For data that cannot be read or decoded; also while iterating.
    """
    mmm_rs.check_order("batches", config, data_dir)
    batch_size, world_size = _at_least(1, batch_size=batch_size, world_size=world_size)
    shuffle, seed, rank = _at_least(0, shuffle=shuffle, seed=seed, rank=rank)
    if size is not None:
        (size,) = _at_least(1, size=size)
    if threads is not None:
        (threads,) = _at_least(1, threads=threads)
    if rank >= world_size:
        raise ValueError(f"rank={rank}, world_size={world_size}: the ranks are 0 to {world_size - 1}")
    if to not in ("numpy", "torch"):
        raise ValueError(f'to={to!r}: give "numpy" or "torch"')
    if pin_memory and to != "torch":
        raise ValueError('pin_memory=True: needs to="torch"')
    if to == "torch":
        _import_torch(pin_memory)
    if revision is not None:
        data_dir = mmm_rs.dataset_address(data_dir, revision)
    access = {
        "token": token,
        "storage_options": storage_options,
        "local_cache": local_cache,
        "cache_limit": cache_limit,
    }
    samples = _Samples(config, os.fspath(data_dir), split, modalities, filters, contains, complete, on_error, access)
    order = _Order(batch_size, shuffle, seed, rank, world_size, drop_last)
    stream = Batches(samples, order, _Form(size, to, pin_memory, masks=not complete), threads)
    if (count := sum(samples.rows)) and not len(stream):
        logger.warning(
            f"{config}: {count:,} samples match, and drop_last=True leaves out all of them: batches of {batch_size} "
            f"for world_size={world_size} need {batch_size * world_size:,}. Give a smaller batch_size"
        )
    return stream


def _at_least(least: int, **numbers: Any) -> list[int]:
    """The numbers as `int`; numpy's are numbers too. Raises ValueError for what is not one, or is less."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not hasattr(number, "__index__") or number < least:
            raise ValueError(f"{name}={number!r}: give a whole number of at least {least}")
    return list(map(operator.index, numbers.values()))


class Batches:
    """What `batches` returns: iterate over it once per epoch.

    It is also an `IterableDataset` of torch: `DataLoader(batches(...), batch_size=None, num_workers=4)`. Its workers
    share the batches.
    """

    def __init__(self, samples: _Samples, order: _Order, form: _Form, threads: int | None) -> None:
        self._samples, self._order, self._form, self._threads = samples, order, form, threads
        self._undecodable: list[mmm_rs.Skipped] = []
        self._epoch = _shared_number()
        self._place = _Place(0, 0, None)  # of the latest iteration
        self._start: _Start | None = None  # of the next iteration, if that is not the beginning
        _register()

    def __getitem__(self, number: Any) -> Any:
        """A stream has no positions. A DataLoader asks for them if torch was imported after this was made."""
        raise TypeError("batches are a stream without positions. For a DataLoader, import torch before calling batches")

    @property
    def skipped(self) -> list[mmm_rs.Skipped]:
        """The samples that `on_error="skip"` left out so far."""
        return [*self._samples.skipped, *self._undecodable]

    def __len__(self) -> int:
        """Batches per epoch, on each rank."""
        first, last = self._order.share(sum(self._samples.rows))
        return -(-(last - first) // self._order.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iterations. Call it before each epoch when shuffling."""
        (epoch,) = _at_least(0, epoch=epoch)
        self._epoch[0] = epoch
        if self._start is not None and self._start.place.epoch != epoch:
            self._start = None

    def state_dict(self) -> dict[str, Any]:
        """Where the latest iteration is, exact to the sample, as plain values that JSON and `torch.save` can hold.

        What was decoded but not yet given is not counted.
        """
        place = self._place if self._start is None else self._start.place
        return {**place._asdict(), "of": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next iteration where the state was taken.

        Raises:
            ValueError: If the state is of other data or other arguments, with which its position means nothing.
        """
        if not {"of", *_Place._fields} <= state.keys():
            raise ValueError("the state is not one that `state_dict` of these batches gave")
        identity, other = self._identity(), state["of"]
        if differing := [name for name in identity if other.get(name) != identity[name]]:
            named = ", ".join(f"{name} was {other.get(name)!r}, is {identity[name]!r}" for name in differing)
            raise ValueError(f"the state is of another stream: {named}. Give the same arguments and data")
        place = _Place(*(state[name] for name in _Place._fields))
        self._epoch[0] = place.epoch
        self._start = _Start(place, within_worker=_worker() is not None)

    def _identity(self) -> dict[str, Any]:
        """What the meaning of a position depends on."""
        return {**self._samples.identity(), **vars(self._order)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = int(self._epoch[0])
        plan = self._order.plan(self._samples.rows, epoch)
        place, worker = _Place(epoch, 0, None), _worker()
        if self._start is not None:
            place = self._start.place
        first, last = place.batch, len(plan) if place.end is None else place.end
        if worker is not None and not (self._start and self._start.within_worker and place.end is not None):
            count = last - first  # of which each worker has an equal part
            first, last = (first + number * count // worker.num_workers for number in (worker.id, worker.id + 1))
        self._place, self._start = _Place(epoch, first, last), None
        return self._iterate(plan, epoch, first, last)

    def _iterate(self, plan: _Plan, epoch: int, first: int, last: int) -> Iterator[dict[str, Any]]:
        skipped: list[mmm_rs.Skipped] = []
        batches = self._prepared(plan, first, last)
        if _worker() is not None:  # the other workers have the other cores
            decoded = _decoded_here(batches, self._form)
        else:
            decoded = _decoded_by_threads(batches, self._form, self._threads or _cores())
        del batches  # closed by its reader
        try:
            with contextlib.closing(decoded):
                for batch in decoded:
                    rows = batch.readable_rows(self._samples.skip, skipped)
                    self._place = _Place(epoch, batch.number + 1, last)
                    given = [self._form.dictionary(batch, rows, self._samples.features)] if len(rows) else []
                    del batch  # its memory is free when the consumer lets go of it
                    if given:
                        yield given.pop()
                    elif self._order.world_size > 1:
                        raise mmm_rs.ReadError(
                            f"{self._samples}: none of the samples of a batch can be read. Left out, it would put the "
                            "ranks out of step. Fetch the shards again, or give a larger batch_size"
                        )
        finally:
            if skipped:
                self._undecodable += skipped
                logger.warning(f"{self._samples}: {len(skipped)} samples cannot be decoded: {mmm_rs.listing(skipped)}")

    def _prepared(self, plan: _Plan, first: int, last: int) -> Generator[_Batch, None, None]:
        """The batches from `first` to `last`, read but not decoded."""
        with contextlib.closing(_encoded_batches(self._samples, plan, first, last)) as batches:
            for encoded in batches:
                yield self._form.prepare(encoded, self._samples.modalities, self._samples.features)


class _Place(NamedTuple):
    """A place in an epoch. Its fields are those of a state."""

    epoch: int
    batch: int  # the next one
    end: int | None  # the batch at which the iteration ends; None before there is one


class _Start(NamedTuple):
    """Where the next iteration starts."""

    place: _Place
    within_worker: bool  # it was loaded in a DataLoader's worker, so it is of that one's part; else it is of all


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _torch() -> Any:
    """torch if the program has imported it. It takes seconds to import, and is not needed for arrays."""
    return sys.modules.get("torch")


def _import_torch(pin_memory: bool) -> None:
    try:
        import torch
    except ImportError:
        raise ValueError('to="torch": needs PyTorch. Install it with: pip install torch') from None
    if pin_memory:
        try:
            torch.empty(1, pin_memory=True, device="cpu")
        except RuntimeError as error:
            raise ValueError(f"pin_memory=True: needs a GPU that PyTorch can use: {_line(error)}") from None


def _worker() -> Any:
    """torch's description of the DataLoader worker that this process is, or None."""
    torch = _torch()
    return None if torch is None else torch.utils.data.get_worker_info()


def _register() -> None:
    """A DataLoader takes for a stream what is an instance of this class of torch's."""
    if (torch := _torch()) is not None:
        torch.utils.data.IterableDataset.register(Batches)


def _shared_number() -> Any:
    """A number that workers of a DataLoader which live on from epoch to epoch see change."""
    if (torch := _torch()) is not None:
        return torch.zeros(1, dtype=torch.int64, device="cpu").share_memory_()
    return [0]


def collate(rows: Sequence[Mapping[str, Any]], size: int | None = None) -> dict[str, Any]:
    """Rows of `load_dataset` as a batch of torch tensors: `DataLoader(dataset, batch_size=64, collate_fn=collate)`.

    torch's own function fails at the first missing value. This one takes the rows of `mmm_rs.load_dataset` (it decodes
    faster with `decode=False`), those of `datasets.load_dataset`, and both `with_format("torch")`.

    Args:
        rows: The rows, dictionaries. A column that some of them lack is missing there.
        size: Width and height of the images that come, as in `functools.partial(collate, size=256)`. None keeps the
            size: all must then have the same. Images of `decode=False` are scaled as by `batches`; decoded ones are
            resized by Pillow, which differs a little.

    Returns:
        The same columns, in the form of `batches(..., to="torch")`. An image that is missing is zeros;
        `<column>_mask` says where there is one. Columns that are neither images nor numbers are lists.

    Raises:
        ValueError: If the images differ in size, and no `size` is given; if there are no rows.
        mmm_rs.ReadError: If an image cannot be decoded.
    """
    if not rows:
        raise ValueError("collate: no rows were given")
    if size is not None:
        (size,) = _at_least(1, size=size)
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(itertools.chain(*rows))}
    keys = [row.get("key") or row.get("__key__") or f"row {number}" for number, row in enumerate(rows)]
    images = {name: list(map(_image, values)) for name, values in columns.items() if _has_images(name, values)}
    sizes = {name: _first_size(values) for name, values in images.items()}
    known = next((size for size in sizes.values() if size), (0, 0))  # for a column without any image
    batch: dict[str, Any] = {}
    for name, values in columns.items():
        if name not in images:
            batch[name] = _labels(values, _KINDS.get(name) or _kind_of_values(values), _tensor)
            continue
        height, width = (size, size) if size is not None else sizes[name] or known
        pixels = np.zeros((len(rows), height, width, 3), np.uint8)
        for target, image, key in zip(pixels, images[name], keys, strict=True):
            try:
                if isinstance(image, memoryview):
                    if fault := mmm_rs.image_fault(image):
                        raise PIL.UnidentifiedImageError(fault)
                    _decode(image, target, size is not None)
                elif image is not None:
                    _copy(image, target, size is not None)
            except _OtherSize as error:
                raise _unequal(name, key, error.size, (height, width)) from None
            except Exception as error:
                raise mmm_rs.ReadError(f"the image {name} of {key} cannot be decoded: {_line(error)}") from error
        batch[name] = _tensor(pixels).permute(0, 3, 1, 2)
        batch[f"{name}_mask"] = _tensor(np.array([image is not None for image in images[name]], bool))
    return batch


def _has_images(name: str, values: Sequence[Any]) -> bool:
    value = next((value for value in values if value is not None), None)
    if value is None:
        return name in _IMAGE_COLUMNS
    return isinstance(value, PIL.Image.Image) or getattr(value, "ndim", 0) >= 2 or _is_encoded(value)


_IMAGE_COLUMNS = {*mmm_rs.MODALITIES, *(members.image for members in mmm_rs.MEMBERS.values())}


def _is_encoded(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"bytes", "path"}


def _image(value: Any) -> memoryview | PIL.Image.Image | None:
    """An image of a row, in any form in which `datasets` gives one."""
    if value is None or isinstance(value, PIL.Image.Image):
        return value
    if _is_encoded(value):
        data = value["bytes"]
        if data is None:
            with open(value["path"], "rb") as file:
                data = file.read()
        return memoryview(data)
    if type(value).__module__ == "torch":
        value = value.permute(1, 2, 0).numpy()  # as `with_format("torch")` has it: channels first, one if it is grey
    pixels = np.asarray(value)
    return PIL.Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The batches of an epoch on one rank.

    The *stream* is the rows of all pieces in the order in which they are read; a row is named by its place in it.
    """

    pieces: np.ndarray  # the numbers of the pieces, in the order of the stream
    starts: np.ndarray  # the place of each one's first row, and the number of all rows
    rows: np.ndarray  # the places of this rank's rows, in the order in which they are given
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def batch(self, number: int) -> np.ndarray:
        """The places of the rows of a batch."""
        return self.rows[number * self.batch_size : (number + 1) * self.batch_size]


@dataclass(frozen=True)
class _Order:
    """How samples are dealt out to ranks and batches. Its fields are the arguments of `batches`."""

    batch_size: int
    shuffle: int
    seed: int
    rank: int
    world_size: int
    drop_last: bool

    def plan(self, rows: Sequence[int], epoch: int) -> _Plan:
        """The plan of an epoch. `rows`: how many each piece has."""
        sizes = np.array(rows, np.int64)
        pieces = np.arange(len(sizes))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(pieces)
        starts = np.concatenate([[0], np.cumsum(sizes[pieces])])
        first, last = self.share(int(starts[-1]))
        places = np.arange(first, last)
        if self.shuffle:
            # Sorted by its place plus a random distance, a row moves by less than `shuffle`. So do the rows that have
            # to be kept, and the way back of a stream that starts in the middle. A buffer from which rows are drawn at
            # random mixes just as thoroughly, but holds some rows for very long.
            distances = np.random.default_rng([self.seed, epoch, self.rank]).random(len(places)) * self.shuffle
            places = places[np.argsort(np.arange(len(places)) + distances)]
        return _Plan(pieces, starts, places, self.batch_size)

    def share(self, count: int) -> tuple[int, int]:
        """The places of this rank's rows, first and last + 1: as many batches as on any other rank."""
        first, last = (number * count // self.world_size for number in (self.rank, self.rank + 1))
        fewest, most = count // self.world_size, -(-count // self.world_size)
        if self.drop_last:
            last = first + fewest // self.batch_size * self.batch_size
        elif fewest != most and fewest % self.batch_size == 0:  # the ranks with a row more would have a batch more
            last = first + most
        return first, last


# --- reading ---------------------------------------------------------------------------------------------------------


class _Samples:
    """The samples that were chosen. This class alone knows how `mmm_rs` reads them."""

    def __init__(
        self,
        config: str,
        data_dir: str,
        split: str,
        modalities: Sequence[str] | None,
        filters: Any,
        contains: str | Sequence[str] | None,
        complete: bool,
        on_error: str,
        access: Mapping[str, Any],
    ) -> None:
        self.modalities = mmm_rs.chosen_modalities(config, modalities)
        if config == mmm_rs.ALL and modalities is None and complete:
            raise ValueError(
                f"{config}: few subsets have all of {', '.join(self.modalities)}, and complete=True would leave the "
                'others out. Give the modalities, for example ["rgb"], or complete=False'
            )
        selection = mmm_rs.select(filters, contains, self.modalities)
        condition = selection.expression
        if len(mmm_rs.config_modalities(config)) > 1:  # a sample of one modality has it
            present = [pc.field(f"{modality}_size") > 0 for modality in self.modalities]
            wanted = functools.reduce(operator.and_ if complete else operator.or_, present)
            condition = wanted if condition is None else condition & wanted
        self._builder = mmm_rs.MMMRS(
            config_name=config,
            data_dir=data_dir,
            modalities=modalities,
            filters=condition,
            on_error=on_error,
            decode=False,
            check=True,
            **access,
        )
        source = self._builder._source
        if not isinstance(source, mmm_rs.ConvertedSource):
            raise mmm_rs.ReadError(
                f"{source}: is not converted. Convert the release first: mmm-rs convert {source} OUT"
            )
        splits = source.splits([subset for subset in source.subsets if subset in mmm_rs.subset_names(config)])
        if split not in splits:
            raise ValueError(f"split={split!r}: {config} has {', '.join(splits)}")
        self.split = split
        self.skip = on_error == "skip"
        self.features = self._builder.info.features
        self._pieces = self._builder.pieces(split)
        self.rows = list(map(mmm_rs.row_count, self._pieces))
        if not sum(self.rows):
            self._warn_of_no_match(source, selection, {"filters": filters, "contains": contains})

    def __str__(self) -> str:
        return str(self._builder._source)

    def _warn_of_no_match(
        self, source: mmm_rs.ConvertedSource, selection: mmm_rs.Selection, options: Mapping[str, Any]
    ) -> None:
        config = self._builder.config.name
        subsets = [subset for subset in source.subsets if subset in mmm_rs.subset_names(config)]
        incomplete = mmm_rs.row_count(
            segment for subset in subsets for segment in source.segments(subset, self.split, selection)
        )
        if incomplete:
            reason = (
                f"{incomplete:,} samples match, but none has all of {', '.join(self.modalities)}. Give the modalities "
                "that you need, or complete=False"
            )
        else:
            reason = mmm_rs.no_match(source, subsets, selection, options)
        mmm_rs.logger.warning(f"{config}: {reason}")

    @property
    def skipped(self) -> list[mmm_rs.Skipped]:
        """The samples that could not be read so far."""
        return self._builder.skipped

    def identity(self) -> dict[str, Any]:
        """Says whether two of these hold the same samples in the same order, in plain values."""
        config = self._builder.config
        return {
            "config": config.name,
            "data": config.digest,
            "split": self.split,
            "modalities": ",".join(self.modalities),
            "filters": str(config.filters),
            "samples": sum(self.rows),
        }

    def tables(self, pieces: Sequence[int], row: int) -> Generator[_Rows, None, None]:
        """The rows of these pieces in turn, of the first from `row` on. Rows that cannot be read are left out and
        listed in `skipped`, or raise ReadError."""
        chosen = [self._pieces[number] for number in pieces]
        with contextlib.closing(self._builder.tables(chosen, row=row)) as tables:
            for table, position, counts in tables:
                segments = chosen[position]
                ends = list(itertools.accumulate(segment.last - segment.first for segment in segments))
                shard = segments[bisect.bisect_left(ends, counts[0])].shard
                yield _Rows(table, position, [count - 1 for count in counts], shard, self.modalities)


class _Rows:
    """The rows of a table: labels as lists, images as views of Arrow's buffers, which are kept as long as one is."""

    def __init__(
        self, table: pa.Table, piece: int, numbers: Sequence[int], shard: str, modalities: Sequence[str]
    ) -> None:
        self.piece = piece  # its position among the pieces that were asked for
        self.numbers = numbers  # for each row, its number in the piece
        self.shard = shard
        columns = {name: _array(table[name]) for name in table.column_names}
        self.images = {modality: _views(columns.pop(modality)) for modality in modalities}
        self.labels = {name: column.to_pylist() for name, column in columns.items()}


def _array(column: pa.ChunkedArray) -> pa.Array:
    """A table's column in one piece. `combine_chunks` would copy the images, even of a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _views(column: pa.StructArray) -> list[memoryview | None]:
    """The images of a column of structs {bytes, path}, without copying them."""
    data = column.field("bytes")
    _, offsets, values = data.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(data) + 1, data.offset * 4).tolist()
    view = memoryview(values or b"").cast("B")  # Arrow's bytes are signed
    present = column.is_valid().to_pylist()
    return [view[bounds[row] : bounds[row + 1]] if is_present else None for row, is_present in enumerate(present)]


class _Encoded(NamedTuple):
    """A batch whose samples have all been read, but for those that cannot be."""

    number: int
    samples: list[tuple[_Rows, int]]  # rows of a table, and which of them


def _encoded_batches(samples: _Samples, plan: _Plan, first: int, last: int) -> Generator[_Encoded, None, None]:
    """The batches from `first` to `last`, exclusive."""
    held: dict[int, tuple[_Rows, int]] = {}  # rows that were read, by their place, until their batch is complete
    number = first
    places = plan.batch(number).tolist()
    for read, rows in _read(samples, plan, first, last):
        held.update(rows)
        while number < last and max(places) < read:
            # A sample that was skipped is not there.
            yield _Encoded(number, [held.pop(place) for place in places if place in held])
            number += 1
            places = plan.batch(number).tolist()
        if number == last:
            return


def _read(
    samples: _Samples, plan: _Plan, first: int, last: int
) -> Iterator[tuple[float, dict[int, tuple[_Rows, int]]]]:
    """The rows of these batches in the order of the stream: (place before which everything has been read, the next rows
    by their place). Reads only the pieces that hold one of them."""
    places = plan.rows[first * plan.batch_size : last * plan.batch_size]
    if not len(places):
        return
    wanted = np.zeros(plan.starts[-1], bool)
    wanted[places] = True
    positions = np.unique(np.searchsorted(plan.starts, places, side="right") - 1)
    starts = plan.starts[positions].tolist()
    row = int(places.min()) - starts[0]
    with contextlib.closing(samples.tables(plan.pieces[positions].tolist(), row)) as tables:
        for rows in tables:
            inside = starts[rows.piece] + np.asarray(rows.numbers)
            chosen = np.flatnonzero(wanted[inside])
            yield (
                float(inside[-1] + 1),
                {place: (rows, index) for place, index in zip(inside[chosen].tolist(), chosen.tolist(), strict=True)},
            )
    yield math.inf, {}  # samples at the end may have been skipped


# --- decoding --------------------------------------------------------------------------------------------------------


@dataclass
class _Batch:
    """A batch that is read, and whose arrays are then filled. Decoders take images from it until none is left."""

    number: int
    samples: list[tuple[_Rows, int]]
    labels: dict[str, Any]  # columns that are not images, in the form in which they are given
    masks: dict[str, np.ndarray]  # by modality: which samples have an image
    shapes: dict[str, tuple[int, ...]]  # by modality
    tasks: list[tuple[str, int, memoryview]]  # modality, sample, encoded image
    scaled: bool
    images: dict[str, np.ndarray] = field(default_factory=dict)  # by modality, once there is memory for them
    owners: dict[str, Any] = field(default_factory=dict)  # the tensors whose memory these are, where it is page-locked
    unreadable: dict[int, tuple[str, str]] = field(default_factory=dict)  # sample -> modality, reason
    odd: dict[int, tuple[str, tuple[int, int]]] = field(default_factory=dict)  # sample -> modality, its other size
    next: Iterator[int] = field(default_factory=itertools.count)
    decoded: int = 0  # images that are done, guarded by a lock if there are several threads
    stopped: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its images, decoded."""
        return sum(map(math.prod, self.shapes.values()))

    def decode(self) -> int:
        """Decode images until none is left for this thread. Returns how many."""
        count = 0
        for number in self.next:
            if number >= len(self.tasks) or self.stopped:
                break
            modality, sample, data = self.tasks[number]
            try:
                _decode(data, self.images[modality][sample], self.scaled)
            except _OtherSize as error:
                self.odd[sample] = modality, error.size
            except Exception as error:  # Pillow's plugins raise anything for damaged files
                self.unreadable[sample] = modality, _line(error)
            count += 1
        return count

    def readable_rows(self, skip: bool, skipped: list[mmm_rs.Skipped]) -> Sequence[int]:
        """The samples that could be decoded. Raises an error for others, or lists them."""
        if self.odd:
            sample, (modality, size) = min(self.odd.items())
            raise _unequal(modality, self.labels["key"][sample], size, self.images[modality].shape[1:3])
        if not self.unreadable:
            return range(len(self.samples))
        for sample, (modality, reason) in sorted(self.unreadable.items()):
            key, shard = self.labels["key"][sample], self.samples[sample][0].shard
            if not skip:
                raise mmm_rs.ReadError(
                    f"{shard}: the {modality} image of {key} cannot be decoded: {reason}. Its bytes are those of the "
                    'release. Give on_error="skip" to leave it out'
                )
            skipped.append(mmm_rs.Skipped(key, shard, f"{modality}: {reason}"))
        return [sample for sample in range(len(self.samples)) if sample not in self.unreadable]


def _decoded_here(batches: Generator[_Batch, None, None], form: _Form) -> Generator[_Batch, None, None]:
    """The batches, decoded by this thread."""
    with contextlib.closing(batches), contextlib.closing(_Memory()) as memory:
        for batch in batches:
            form.allocate(batch, memory, 2)
            batch.decode()
            yield batch
            del batch


def _decoded_by_threads(
    batches: Generator[_Batch, None, None], form: _Form, threads: int
) -> Generator[_Batch, None, None]:
    """The batches, read by one thread and decoded by others while the consumer works."""
    pipeline = _Pipeline(batches, form, threads)
    try:
        pipeline.start()
        yield from pipeline
    finally:
        pipeline.stop()
        pipeline.memory.close()


LARGE = 32 << 20  # bytes of a batch


def _ahead(threads: int, nbytes: int) -> int:
    """Batches of so many bytes that are ready or being decoded, at most.

    For one or two decoders, a second large batch would gain a twentieth of the speed, and cost as much memory again.
    """
    return 1 if threads <= 2 and nbytes > LARGE else max(2, threads // 4)


MOMENT = 0.0003  # seconds in which decoders begin


class _Pipeline:
    """A reader, decoders and the batches between them. Everything below the lock is changed under it."""

    def __init__(self, batches: Generator[_Batch, None, None], form: _Form, threads: int) -> None:
        self._batches, self._form, self.memory = batches, form, _Memory()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # for another batch
        self._work = threading.Condition(self._lock)  # for decoders
        self._ready = threading.Condition(self._lock)  # the next batch, or the end
        self._waiting: deque[_Batch] = deque()  # all batches that the consumer has not taken, in order
        self._undecoded: deque[_Batch] = deque()  # those of them that have images left
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._decoders = [
            threading.Thread(target=self._decode, name=f"mmm-rs-decoder-{number}", daemon=True)
            for number in range(threads)
        ]
        self._reader = threading.Thread(target=self._read, name="mmm-rs-reader", daemon=True)

    def start(self) -> None:
        _running.add(self)
        for thread in (self._reader, *self._decoders):
            thread.start()

    def __iter__(self) -> Iterator[_Batch]:
        while True:
            with self._lock:
                while not (self._waiting and self._waiting[0].decoded == len(self._waiting[0].tasks)):
                    if self._ended and not self._waiting:
                        if self._error is not None:
                            raise self._error
                        return
                    self._ready.wait(1)  # Windows sees Ctrl-C only between two waits
                taken = [self._waiting.popleft()]
                self._room.notify()
            yield taken.pop()  # no reference stays here: the batch's memory is free when the consumer lets go of it

    def stop(self) -> None:
        """End the threads. The reader may be in the middle of a request, and is not waited for until it ends."""
        _running.discard(self)
        if self._process != os.getpid():  # a fork has the locks as they were, but none of the threads
            return
        with self._lock:
            self._stopped = True
            for batch in self._waiting:
                batch.stopped = True
            for condition in (self._room, self._work, self._ready):
                condition.notify_all()
        for thread, seconds in [*((decoder, None) for decoder in self._decoders), (self._reader, 0.1)]:
            if thread.ident is not None:  # it was started
                thread.join(seconds)

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(self._batches) as batches:
                for batch in batches:
                    ahead = _ahead(len(self._decoders), batch.nbytes)
                    with self._lock:
                        while len(self._waiting) >= ahead and not self._stopped:
                            self._room.wait()
                    if self._stopped:
                        break
                    self._form.allocate(batch, self.memory, ahead + 1)
                    with self._lock:
                        batch.stopped = self._stopped
                        are_idle = not self._undecoded  # the decoders
                        self._waiting.append(batch)
                        self._undecoded.append(batch)
                        self._work.notify_all()
                        if not batch.tasks:
                            self._ready.notify()
                    del batch  # its memory is free as soon as the consumer lets go of it; so below
                    if are_idle:  # else this thread would go on first, and keep the interpreter for itself
                        time.sleep(MOMENT)
        except BaseException as raised:
            error = raised
        with self._lock:
            self._ended, self._error = True, error
            self._work.notify_all()
            self._ready.notify()

    def _decode(self) -> None:
        while True:
            with self._lock:
                while not self._undecoded:
                    if self._ended or self._stopped:
                        return
                    self._work.wait()
                batch = self._undecoded[0]
            count = batch.decode()
            with self._lock:
                if self._undecoded and self._undecoded[0] is batch:
                    self._undecoded.popleft()
                batch.decoded += count
                if batch.decoded == len(batch.tasks):
                    self._ready.notify()
                if self._stopped:
                    return
            del batch


_running: weakref.WeakSet[_Pipeline] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Threads that still run when the interpreter is taken down can crash it from within a library."""
    for pipeline in list(_running):
        pipeline.stop()


def _unequal(name: str, key: str, size: Sequence[int], others: Sequence[int]) -> ValueError:
    return ValueError(
        f"{key}: its image {name} has {size[1]} x {size[0]} pixels, others of the batch {others[1]} x {others[0]}. "
        "Give size=..., for example 512, to have all in one size"
    )


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# Pixels below which simplejpeg may choose another factor than the one that is meant: 3/8 of 3 pixels are 2, as 1/2 is.
_SMALLEST = 8
# Colours in which simplejpeg gives Pillow's pixels. It converts CMYK in another way.
_FAST_COLOURS = ("YCbCr", "Gray", "RGB")
_ORIENTATION = 0x0112  # Exif's tag


class _OtherSize(Exception):
    """An image does not fit its place in the batch."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size  # height, width


def _decode(data: memoryview, target: np.ndarray, scaled: bool) -> None:
    """Decode an image into `target`, a part of a batch's array (height, width, 3).

    `scaled`: to its size, while decoding; otherwise raises _OtherSize if the image has another. Raises whatever Pillow
    does for what it cannot decode. The builder, and `collate`, have looked for what no decoder should be given.
    """
    size = target.shape[:2]
    if _is_plain_jpeg(data):
        with contextlib.suppress(ValueError):  # simplejpeg refuses it; perhaps Pillow does not
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            fits = min(height, width) >= _SMALLEST and height * width <= _most_pixels()
            if fits and colours in _FAST_COLOURS:
                factor = _reduction((height, width), size) if scaled else 1
                height, width = -(-height // factor), -(-width // factor)
                least = {"min_height": height, "min_width": width}
                if (height, width) == size:
                    simplejpeg.decode_jpeg(data, buffer=target, **least)
                elif scaled:
                    _copy(PIL.Image.fromarray(simplejpeg.decode_jpeg(data, **least)), target, scaled)
                else:
                    raise _OtherSize((height, width))
                return
    with PIL.Image.open(io.BytesIO(data), formats=mmm_rs.IMAGE_FORMATS) as image:
        if scaled:
            image.draft(None, (size[1], size[0]))  # type: ignore[arg-type]
        _copy(PIL.ImageOps.exif_transpose(image), target, scaled)


def _reduction(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """The factor by which the image can be made smaller while it is decoded, as Pillow's `draft` chooses it: then what
    comes is what `draft` and `resize` give. Other factors, such as 3/4, decode more slowly and blur."""
    most = min(size[0] // wanted[0], size[1] // wanted[1])
    return next((factor for factor in (8, 4, 2) if most >= factor), 1)


def _copy(image: PIL.Image.Image, target: np.ndarray, scaled: bool) -> None:
    """Copy an image's pixels into `target`."""
    height, width = target.shape[:2]
    if (image.height, image.width) != (height, width):
        if not scaled:
            raise _OtherSize((image.height, image.width))
        image = image.convert("RGB").resize((width, height))
    target[:] = np.asarray(image.convert("RGB"))


def _first_size(images: Iterable[memoryview | PIL.Image.Image | None]) -> tuple[int, int] | None:
    """Height and width of the first image whose header can be read."""
    return next((size for image in images if image is not None and (size := _pixel_size(image))), None)


def _pixel_size(data: memoryview | PIL.Image.Image) -> tuple[int, int] | None:
    """Height and width of an image as `_decode` gives it, or None if its header cannot be read."""
    if isinstance(data, PIL.Image.Image):
        return data.height, data.width
    if _is_plain_jpeg(data):
        with contextlib.suppress(ValueError):
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return height, width
    with contextlib.suppress(Exception), PIL.Image.open(io.BytesIO(data), formats=mmm_rs.IMAGE_FORMATS) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)
    return None


def _most_pixels() -> int:
    """Pixels above which Pillow warns of a decompression bomb, and above twice as many refuses."""
    return PIL.Image.MAX_IMAGE_PIXELS or sys.maxsize


def _is_plain_jpeg(data: memoryview) -> bool:
    """Whether it is a JPEG that stands upright: no Exif or XMP says that it has to be turned."""
    if data[:2] != b"\xff\xd8":
        return False
    position, length = 2, len(data)
    while position + 4 <= length:
        marker, size = struct.unpack_from(">HH", data, position)
        if marker == _SCAN:
            return True
        if marker == _APP1 and _TURNING.search(data[position : position + 2 + size]):
            return _orientation(data) == 1
        if not 0xFFC0 <= marker <= 0xFFFE:  # filling bytes, or damage: let Pillow see
            return False
        position += 2 + size
    return False


_SCAN, _APP1 = 0xFFDA, 0xFFE1  # markers: start of scan; Exif or XMP
_TURNING = re.compile(rb"Exif\0\0|tiff:Orientation")


def _orientation(data: memoryview) -> int | None:
    with contextlib.suppress(Exception), PIL.Image.open(io.BytesIO(data), formats=mmm_rs.IMAGE_FORMATS) as image:
        return image.getexif().get(_ORIENTATION, 1)
    return None


# --- the form of batches ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """The form of the batches. Its fields are arguments of `batches`."""

    size: int | None
    to: str
    pin_memory: bool
    masks: bool

    def prepare(self, encoded: _Encoded, modalities: Sequence[str], features: datasets.Features) -> _Batch:
        """All that can be done for a batch before there is memory for its images."""
        samples = encoded.samples
        columns = {modality: [rows.images[modality][index] for rows, index in samples] for modality in modalities}
        square = None if self.size is None else (self.size, self.size)
        sizes = {modality: square or _first_size(column) for modality, column in columns.items()}
        known = next((size for size in sizes.values() if size), (0, 0))  # for a modality that no sample has
        labels = {
            name: _labels([rows.labels[name][index] for rows, index in samples], _kind(feature), self._convert)
            for name, feature in features.items()
            if name not in columns
        }
        masks = {
            modality: np.array([data is not None for data in column], bool) for modality, column in columns.items()
        }
        shapes: dict[str, tuple[int, ...]] = {
            modality: (len(samples), *(size or known), 3) for modality, size in sizes.items()
        }
        tasks = [
            (modality, sample, data)
            for modality, column in columns.items()
            for sample, data in enumerate(column)
            if data is not None
        ]
        return _Batch(encoded.number, samples, labels, masks, shapes, tasks, scaled=self.size is not None)

    def allocate(self, batch: _Batch, memory: _Memory, at_once: int) -> None:
        """Give a batch the arrays of its images. `at_once`: how many batches have some, if the consumer keeps one."""
        for modality, shape in batch.shapes.items():
            if self.pin_memory:
                batch.owners[modality] = tensor = _pinned_tensor(shape)
                batch.images[modality] = tensor.numpy()
            else:
                batch.images[modality] = memory.array(shape, at_once * len(batch.shapes))
            batch.images[modality][~batch.masks[modality]] = 0

    @property
    def _convert(self) -> Callable[[np.ndarray], Any]:
        return _tensor if self.to == "torch" else np.asarray

    def dictionary(self, batch: _Batch, rows: Sequence[int], features: datasets.Features) -> dict[str, Any]:
        """The batch for the consumer. `rows`: the samples that could be decoded."""
        whole = len(rows) == len(batch.samples)
        chosen = slice(None) if whole else list(rows)
        given: dict[str, Any] = {}
        for name in features:
            if name in batch.images:
                images = batch.owners[name] if self.pin_memory else self._convert(batch.images[name])
                given[name] = images[chosen].permute(0, 3, 1, 2) if self.to == "torch" else images[chosen]
                if self.masks:
                    given[f"{name}_mask"] = self._convert(batch.masks[name][chosen])
            else:
                values = batch.labels[name]
                is_list = isinstance(values, list) and not whole
                given[name] = [values[row] for row in rows] if is_list else values[chosen]
        return given


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array if array.dtype != np.float64 else array.astype(np.float32))  # as torch has numbers


class _Kind(NamedTuple):
    """How a label is given as an array."""

    type: str
    missing: Any  # what stands for a missing one


def _kind(feature: Any) -> _Kind | None:
    """None: as a list."""
    if isinstance(feature, datasets.ClassLabel):
        return _Kind("int64", -1)
    name = getattr(feature, "dtype", "")
    if name.startswith("float"):
        return _Kind("float64", math.nan)
    return _Kind("bool", False) if name == "bool" else None


# Of the builder's columns; a batch in which all are missing must be like the others.
_KINDS = {name: kind for name, feature in mmm_rs.features(mmm_rs.ALL).items() if (kind := _kind(feature))}


def _kind_of_values(values: Sequence[Any]) -> _Kind | None:
    """The same for a column that is not the builder's."""
    types = {type(value.item() if getattr(value, "ndim", None) == 0 else value) for value in values}
    if types == {bool}:
        return _Kind("bool", False)
    if types == {int}:
        return _Kind("int64", -1)
    return _Kind("float64", math.nan) if float in types and types <= {int, float, type(None)} else None


def _labels(values: list[Any], kind: _Kind | None, convert: Callable[[np.ndarray], Any]) -> Any:
    if kind is None:
        return values
    # `with_format("torch")` has NaN for a missing number of any type.
    return convert(
        np.array([kind.missing if value is None or value != value else value for value in values], kind.type)
    )


def _pinned_tensor(shape: tuple[int, ...]) -> Any:
    """torch keeps page-locked memory to use it again, and knows which of it a GPU still reads."""
    import torch

    return torch.empty(shape, dtype=torch.uint8, pin_memory=True, device="cpu")


PATIENCE = 0.01  # seconds to wait for the memory of a batch that the consumer is about to let go of
TRIES = 3  # after so many that were in vain, it keeps its batches


class _Memory:
    """Memory of arrays that are no longer used, for the next ones.

    New memory comes page by page from the system and is zeroed, which takes a fifth of the time of decoding into it. An
    array's memory returns here when nothing refers to the array or a part of it any more: `array.base` is a `lease`,
    which all of them keep alive.
    """

    def __init__(self) -> None:
        self._count = 0  # memories that are in use or free
        self._spare = 0  # that may be free at most
        self._waits_in_vain, self._closed = 0, False
        # A finalizer may put something into this queue at any moment, also while its thread takes something from it.
        self._free: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()  # None: a memory was given up

    def array(self, shape: tuple[int, ...], at_once: int) -> np.ndarray:
        """An array of bytes with any content. `at_once`: how many are in use, if the consumer lets go of its batch when
        it gets the next one."""
        size = math.prod(shape)
        if not size:
            return np.empty(shape, np.uint8)
        self._spare = at_once
        memory = self._take(size, at_once)
        lease = (ctypes.c_ubyte * size).from_buffer(memory)  # type: ignore[arg-type]  # any writable buffer will do
        weakref.finalize(lease, self._give_back, memory).atexit = False
        return np.frombuffer(memoryview(lease), np.uint8).reshape(shape)

    def close(self) -> None:
        """Keep nothing: there is no next array."""
        self._closed = True
        self._free = type(self._free)()  # no name of this module may be left when the interpreter ends

    def _give_back(self, memory: np.ndarray) -> None:
        if not self._closed:
            self._free.put(memory if self._free.qsize() < self._spare else None)

    def _take(self, size: int, at_once: int) -> np.ndarray:
        waits = self._count >= at_once and self._waits_in_vain < TRIES
        try:
            while True:
                memory = self._free.get(timeout=PATIENCE if waits else 0)
                if memory is not None and len(memory) == size:
                    return memory
                self._count -= 1  # memory of another size is given up: the last batch, other images
                waits = False
                del memory
        except queue.Empty:
            self._waits_in_vain += waits
        self._count += 1
        return np.empty(size, np.uint8)
