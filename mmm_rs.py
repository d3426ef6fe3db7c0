"""MMM-RS: what the dataset is, and a builder that reads it with `datasets`.

MMM-RS (multi-modal, multi-GSD, multi-scene remote sensing; arXiv 2410.22362, NeurIPS 2024 Datasets and Benchmarks)
pairs remote sensing images with text prompts. This module is the one place that defines its subsets and its features.

    import mmm_rs
    samples = mmm_rs.load_dataset("SEN1-2", "path/or/hf://url", split="train", streaming=True)

How it reads:
- The manifest says which shards there are and how many samples each holds; the index says where each image lies. So a
  row is made of an index row and byte ranges of a shard. No tar is parsed, and nothing can be missing unnoticed.
- Filters are applied to the index. Only the images of matching rows and chosen modalities are read.
- The rows of a split are cut into equal *pieces*, the unit that `datasets` gives to workers and nodes and shuffles.
- Images go from the file into Arrow's buffers at once; no row is handled in Python before it is asked for.

It imports nothing of the project when it is imported, so that this one file can be handed on alone, next to the data.
It is a module for every version of `datasets` from 2.21, and a loading script where those still exist (before 4.0),
whose import scanner wants one plain `import` a line.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import io
import json
import os
import pickle
import re
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, NamedTuple

import datasets
import fsspec
import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.iterable_dataset import _BaseExamplesIterable

FORMAT_VERSION = "1.0"  # of what is written: shards, index, manifest. A reader refuses another major version

MODALITIES = ("rgb", "nir", "sar")  # optical, near infrared, radar; everywhere in this order
GSD_LEVELS = ("ultra_high", "high", "ordinary", "low", "ultra_low")  # finest first; labels, in this order
WEATHERS = ("fog", "night", "snow")

PROMPT_COLUMNS = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}


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
    "nir": "The near infrared image: one band, stored by upstream as three equal channels.",
    "nir_prompt": "The prompt of the near infrared image.",
    "sar": "The radar image: one band, stored by upstream as three equal channels.",
    "sar_prompt": "The prompt of the radar image.",
    "caption": "The part of the first prompt that a vision-language model wrote; a sentence about the scene.",
    "category": "The scene's class: the record's own, else a part of the prompt.",
    "satellite": "The satellite or map service that the prompt names.",
    "weather": "The weather or light that the prompt names: fog, night or snow.",
    "gsd_level": "The class of GSD that the prompt states; without one, derived from `gsd`. "
    "ultra_high < 0.5 m, high < 1 m, ordinary < 5 m, low from 5 m, ultra_low 100 m.",
    "gsd_level_derived": "Whether `gsd_level` comes from metres and not from the prompt.",
    "gsd": "Ground sample distance, metres a pixel: the record's; for Inria by the file's name.",
    "cloud_cover": "Cloud cover as the record has it, in the source's unit.",
    "annotation": "The release's records verbatim, JSON text by modality.",
}


SHARD_NAME = re.compile(rf"data/({'|'.join(map(re.escape, SUBSETS))})/(train|validation)-\d{{5,}}-of-\d{{5,}}\.tar")
"""The name of a shard, which is its path in the folder. A manifest that names another path is not to be followed."""


def index_name(subset: str) -> str:
    """The name of a subset's index file, which is its path in the folder."""
    return f"index/{subset}.parquet"


def subset_names(config: str | None) -> tuple[str, ...]:
    """The subsets of a config: itself, or all ten for `all`. Raises ValueError for an unknown name."""
    if config == ALL:
        return tuple(SUBSETS)
    if config is None or config not in SUBSETS:
        raise ValueError(f"{config!r}: no such subset. The configs are {', '.join([*SUBSETS, ALL])}")
    return (config,)


def config_modalities(config: str) -> tuple[str, ...]:
    """The modalities that samples of a config can have, in the order rgb, nir, sar."""
    found = {modality for name in subset_names(config) for modality in SUBSETS[name].modalities}
    return tuple(modality for modality in MODALITIES if modality in found)


def chosen_modalities(config: str, modalities: Sequence[str] | None) -> tuple[str, ...]:
    """`modalities` in order, None for all that the config has. Raises ValueError for others than these, or none."""
    having = config_modalities(config)
    if modalities is None:
        return having
    if isinstance(modalities, str) or not modalities or set(modalities) - set(having):
        raise ValueError(f"modalities={modalities!r}: give a list of some of {list(having)}, which {config} has")
    return tuple(modality for modality in having if modality in modalities)


def features(config: str, modalities: Sequence[str] | None = None, decode: bool = True) -> datasets.Features:
    """The builder's columns for a config; see FIELDS for what each is.

    `modalities`: only these; None for all that the config has. `decode`: give `PIL.Image`, not the file's bytes.
    Raises ValueError for modalities that the config does not have, or none.
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
        "annotation": {modality: text for modality in chosen},
    }
    return datasets.Features(columns)


def wds_features(config: str) -> datasets.Features:
    """The columns that the shards have when they are loaded without code: what the card's YAML declares.

    Labels are strings here, as in the shards. `__key__` and `__url__` are declared because some versions of `datasets`
    refuse to stream without them.
    """
    text = datasets.Value("string")
    columns: dict[str, object] = {"__key__": text, "__url__": text}
    for modality in config_modalities(config):
        columns[MEMBERS[modality].image] = datasets.Image()
        columns[MEMBERS[modality].prompt] = text
    columns[METADATA_MEMBER] = {
        "subset": text,
        "source": {modality: text for modality in MODALITIES},
        "caption": text,
        "category": text,
        "weather": text,
        "satellite": text,
        "gsd": datasets.Value("float64"),
        "gsd_level": text,
        "gsd_level_derived": datasets.Value("bool"),
        "cloud_cover": datasets.Value("float64"),
        "annotation": {modality: text for modality in MODALITIES},
    }
    return datasets.Features(columns)


def index_schema() -> pa.Schema:
    """The columns of `index/<Subset>.parquet`, the same for every subset; one row a sample.

    Offsets count from the start of the shard to the image's first byte; offsets and sizes in bytes, widths and heights
    in pixels. Keys, labels and places stand first and long texts last, so that a filter over the network reads one
    stretch of each row group.
    """
    by_modality = pa.struct([(modality, pa.string()) for modality in MODALITIES])
    columns: list[tuple[str, pa.DataType]] = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("subset", pa.string()),
        ("category", pa.string()),
        ("weather", pa.string()),
        ("satellite", pa.string()),
        ("gsd", pa.float64()),
        ("gsd_level", pa.string()),
        ("gsd_level_derived", pa.bool_()),
        ("cloud_cover", pa.float64()),
    ]
    for modality in MODALITIES:
        columns += [(f"{modality}_{name}", pa.int64()) for name in ("offset", "size", "crc32")]
        columns += [(f"{modality}_{name}", pa.int32()) for name in ("width", "height")]
    columns += [(PROMPT_COLUMNS[modality], pa.string()) for modality in MODALITIES]
    columns += [("caption", pa.string()), ("source", by_modality), ("annotation", by_modality)]
    return pa.schema(columns)


def key_hash(key: str, seed: int) -> bytes:
    """Eight bytes by which the samples of a subset are sorted, so that a stream of it is shuffled already."""
    return hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of the manifest without its own digest, as JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def lines_digest(parts: Iterable[str]) -> str:
    """sha256 over hexadecimal digests, one a line."""
    return hashlib.sha256("".join(part + "\n" for part in parts).encode()).hexdigest()


def subsets_digest(manifest: Mapping[str, Any], subsets: Sequence[str]) -> str:
    """Identifies the shards of these subsets: one subset's own digest, or one over those of several in turn."""
    digests = [manifest["subsets"][name]["digest"] for name in subsets]
    return digests[0] if len(digests) == 1 else lines_digest(digests)


def split_names(manifest: Mapping[str, Any], subsets: Sequence[str]) -> list[str]:
    """The splits that these subsets have, train first."""
    found = {split for name in subsets for split in manifest["subsets"][name]["splits"]}
    return sorted(found, key=lambda split: (split != "train", split))


# --- reading: how it is tuned ----------------------------------------------------------------------------------------

# Rows in a piece. Fewer: a resumed stream reads less again, nodes and workers share more evenly. More: less to keep.
PIECE_ROWS = 128
# Pieces come in multiples of this many, so that 2, 4, 8 or 16 nodes get equally many of them.
PIECE_MULTIPLE = 16
# Bytes of images in one table. Large enough that the work by table does not count, small enough for a CPU's cache.
BATCH_BYTES = 2 << 20
# Wanted ranges of one shard that lie this close, in bytes, are read as one. Between two images that follow one another
# stand their texts, 2 to 6 kB; an image of another modality is ten times as long, so it is never read for nothing.
# On a local disk skipping this much costs about as much as another system call. Over a network another request would
# cost far more, but there the promise counts that little more is transferred than what was asked for.
GAP = 16 << 10
# Bytes of one request over the network, at most, and requests at once: together they fill a line with a slow answer.
SPAN = 4 << 20
REQUESTS = 8
# Tries of one request and seconds before the second try; each further wait is twice as long, up to the longest.
TRIES = 8
FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
# Seconds that are waited where a server asks for it (`Retry-After`), at most: the hub counts requests by 5 minutes.
LONGEST_ASKED_WAIT = 300.0
# Seconds without a byte after which a connection counts as lost.
SILENCE = 60.0
# Index row groups kept in memory; one is read anew for each piece when pieces come shuffled.
ROW_GROUPS_KEPT = 2

_crc32: Callable[..., int] = zlib.crc32
with contextlib.suppress(ImportError):  # libdeflate's CRC takes 3 us for an image of 70 kB, zlib's 27 us
    _crc32 = importlib.import_module("deflate").crc32

logger = datasets.utils.logging.get_logger(__name__)


class ReadError(datasets.exceptions.DatasetGenerationError):
    """What is stored is not what the manifest or the index says, or cannot be read.

    Names the file, what was expected and what came. `datasets` passes it on as it is.
    """


# --- reading: bytes --------------------------------------------------------------------------------------------------


class _Wanted:
    """Byte ranges of one file and the buffers that they go to, in the order of the file."""

    def __init__(self, offsets: np.ndarray, sizes: np.ndarray, targets: list[memoryview]) -> None:
        order = np.argsort(offsets, kind="stable")
        self.order = order.tolist()
        self.offsets: list[int] = offsets[order].tolist()
        self.sizes: list[int] = sizes[order].tolist()
        self.targets = [targets[at] for at in self.order]

    def spans(self, longest: int, most: int) -> Iterator[tuple[int, int]]:
        """(first, last + 1) of ranges to be read as one: at most `most` of them, `longest` bytes, no gap above GAP."""
        first, offsets, sizes = 0, self.offsets, self.sizes
        for at in range(1, len(offsets)):
            gap = offsets[at] - offsets[at - 1] - sizes[at - 1]
            together = offsets[at] + sizes[at] - offsets[first]
            if not 0 <= gap <= GAP or together > longest or at - first >= most:
                yield first, at
                first = at
        if offsets:
            yield first, len(offsets)


class _LocalFiles:
    """Files of a folder on a local disk."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.remote = False

    def __str__(self) -> str:
        return self.root

    def path(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))

    def read(self, name: str) -> bytes:
        with open(self.path(name), "rb") as file:
            return file.read()

    def open(self, name: str) -> pa.NativeFile:
        return pa.OSFile(self.path(name), "rb")

    def stream(self, name: str) -> BinaryIO:
        return open(self.path(name), "rb")

    def size(self, name: str) -> int | None:
        return os.stat(self.path(name)).st_size

    def fill(self, name: str, wanted: _Wanted) -> dict[int, str]:
        """Read the ranges into their buffers. Returns what is wrong, by position in `wanted`."""
        wrong: dict[int, str] = {}
        scratch = memoryview(bytearray(GAP))
        fd = os.open(self.path(name), os.O_RDONLY)
        try:
            for first, last in wanted.spans(1 << 30, _VECTORS // 2):
                start = position = wanted.offsets[first]
                vectors = []
                for at in range(first, last):
                    if wanted.offsets[at] != position:
                        vectors.append(scratch[: wanted.offsets[at] - position])
                    vectors.append(wanted.targets[at])
                    position = wanted.offsets[at] + wanted.sizes[at]
                if os.preadv(fd, vectors, start) == position - start:
                    continue
                for at in range(first, last):  # short, so one by one: which of them are there?
                    got = os.preadv(fd, [wanted.targets[at]], wanted.offsets[at])
                    if got != wanted.sizes[at]:
                        wrong[at] = f"{got} of {wanted.sizes[at]} bytes at {wanted.offsets[at]} came"
        finally:
            os.close(fd)
        return wrong


_VECTORS = os.sysconf("SC_IOV_MAX") if hasattr(os, "preadv") else 0  # buffers that one system call fills


class _RemoteFiles:
    """Files of a folder behind an fsspec URL. Every answer's length is checked, and requests are tried again."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = url.rstrip("/"), dict(options)
        self.remote = True
        self._sizes: dict[str, int | None] = {}
        self._connect()

    def _connect(self) -> None:
        thread = fsspec.asyn.iothread[0]
        if thread is not None and not thread.is_alive():  # a fork left it behind, and older versions would wait for it
            fsspec.asyn.reset_lock()
        self._fs, root = fsspec.core.url_to_fs(self.url, **self.options)
        self.root, self._process = root.rstrip("/"), os.getpid()
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._asks = _hub_range if "hf" in protocols else _http_range if "http" in protocols else None

    @property
    def fs(self) -> Any:
        """The file system; one of its own in a forked process, which cannot use the connections of its parent."""
        if self._process != os.getpid():
            self._connect()
        return self._fs

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> Any:
        return _RemoteFiles, (self.url, self.options)

    def read(self, name: str) -> bytes:
        with _RangesFile(self, name) as file:
            return file.read()

    def open(self, name: str) -> pa.NativeFile:
        return pa.PythonFile(_RangesFile(self, name), mode="r")

    def stream(self, name: str) -> BinaryIO:
        return io.BufferedReader(_RangesFile(self, name), SPAN)

    def size(self, name: str) -> int | None:
        """None where the server does not tell. Raises FileNotFoundError."""
        if name not in self._sizes and self._asks is not None:
            self.fetch(name, 0, 1)  # `info` of HTTP calls every trouble a file that is not there, the hub's is cached
        elif name not in self._sizes:
            self._sizes[name] = self._try(lambda: self.fs.info(f"{self.root}/{name}").get("size"), name)
        return self._sizes.get(name)

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`; fewer only where the file ends or the answer is cut again and again.

        Raises ReadError when the server sends another part of the file than was asked for, or cannot be reached.
        """
        data = b""

        def once() -> None:
            nonlocal data
            data, size = self._range(name, start, stop)
            if size is not None and self._sizes.setdefault(name, size) != size:
                raise ReadError(
                    f"{self.url}/{name}: had {self._sizes[name]} bytes and has {size}: it was changed "
                    "meanwhile. Open the dataset anew"
                )
            there = stop - start if size is None else max(min(stop, size) - start, 0)
            if len(data) < there:
                raise _Short(f"{len(data)} of {there} bytes came")

        with contextlib.suppress(_Short):
            self._try(once, name)
        return data

    def fill(self, name: str, wanted: _Wanted) -> dict[int, str]:
        """Read the ranges into their buffers. Returns what is wrong, by position in `wanted`."""
        wrong: dict[int, str] = {}

        def read(span: tuple[int, int]) -> None:
            first, last = span
            start, stop = wanted.offsets[first], wanted.offsets[last - 1] + wanted.sizes[last - 1]
            data = memoryview(self.fetch(name, start, stop))
            for at in range(first, last):
                part = data[wanted.offsets[at] - start :][: wanted.sizes[at]]
                if len(part) == wanted.sizes[at]:
                    wanted.targets[at][:] = part
                else:
                    wrong[at] = f"{len(part)} of {wanted.sizes[at]} bytes at {wanted.offsets[at]} came"

        spans = list(wanted.spans(SPAN, len(wanted.offsets)))
        if len(spans) == 1:
            read(spans[0])
        else:
            with ThreadPoolExecutor(REQUESTS) as pool:
                list(pool.map(read, spans))
        return wrong

    def _range(self, name: str, start: int, stop: int) -> tuple[bytes, int | None]:
        """What one request gives, and the size of the whole file where the answer tells it.

        The `cat_file` of HTTP takes whatever is answered for what was asked, and the hub's reads 5 MB ahead besides.
        So for these two the request is made here, and its answer believed only if it says that it is this range.
        """
        path, asked = f"{self.root}/{name}", f"{self.url}/{name}: bytes {start} to {stop} were asked for and"
        remedy = "this server ignores range requests. Download the files, then give their folder as data_dir"
        if self._asks is None:
            data = self.fs.cat_file(path, start=start, end=stop)
            if len(data) > stop - start:
                raise ReadError(f"{asked} {len(data)} came: {remedy}")
            return data, self.size(name)
        status, told, data = self._asks(self.fs, path, start, stop)
        said = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", told.strip())
        size = int(said[3]) if said and said[3] != "*" else None
        if status == 416:  # nothing lies there
            return b"", size
        if status != 206 or not said or said[1] is None or int(said[1]) != start or len(data) > stop - start:
            raise ReadError(f"{asked} {told or 'no range'} came, with status {status}: {remedy}")
        return data, size

    def _try(self, call: Callable[[], Any], name: str) -> Any:
        wait = FIRST_WAIT
        for tries in range(1, TRIES + 1):
            try:
                return call()
            except (FileNotFoundError, PermissionError, IsADirectoryError, ReadError):
                raise
            except Exception as error:  # each file system has its own, and not all are OSError
                status = _status(error)
                if status == 404:
                    raise FileNotFoundError(f"{self.url}/{name}: {_line(error)}") from error
                if is_offline(error):
                    raise ReadError(f"{self.url}/{name}: HF_HUB_OFFLINE is set. Unset it, or give a folder") from error
                if status is not None and 400 <= status < 500 and status not in (408, 429):
                    raise ReadError(f"{self.url}/{name}: the server refuses it: {_line(error)}") from error
                if tries == TRIES:
                    if isinstance(error, _Short):
                        raise
                    raise ReadError(
                        f"{self.url}/{name}: cannot be read, {TRIES} tries: {_line(error)}. Check the "
                        "connection, then read on from a state_dict or anew"
                    ) from error
                pause = max(wait, min(_asked_wait(error), LONGEST_ASKED_WAIT))
                logger.info(f"{self.url}/{name}: try {tries} of {TRIES}: {_line(error)}; again in {pause} s")
                time.sleep(pause)
                wait = min(2 * wait, LONGEST_WAIT)


class _Short(Exception):
    """Fewer bytes came than were asked for."""


class _RangesFile(io.RawIOBase):
    """A remote file for pyarrow, which knows what it wants: no read ahead, no cache."""

    def __init__(self, files: _RemoteFiles, name: str) -> None:
        size = files.size(name)
        if size is None:
            raise ReadError(
                f"{files}/{name}: the server does not tell its size. Download the files, then give their "
                "folder as data_dir"
            )
        self._files, self._name, self._size, self._at = files, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = self._files.fetch(self._name, self._at, stop)
        if len(data) != stop - self._at:
            raise ReadError(
                f"{self._files}/{self._name}: {len(data)} of {stop - self._at} bytes at {self._at} came: it is "
                "cut short. Try again, or upload it again"
            )
        self._at = stop
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _http_range(fs: Any, url: str, start: int, stop: int) -> tuple[int, str, bytes]:
    """Status, `Content-Range` and body of a range request. What is not the range is not waited for."""
    import aiohttp

    given = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE), **fs.kwargs}
    headers = {**given.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

    async def ask() -> tuple[int, str, bytes]:
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers, **given) as answer:
            if answer.status != 416:
                answer.raise_for_status()
            data = await answer.read() if answer.status == 206 else b""
            return answer.status, answer.headers.get("Content-Range", ""), data

    return fsspec.asyn.sync(fs.loop, ask)


def _hub_range(fs: Any, path: str, start: int, stop: int) -> tuple[int, str, bytes]:
    """The same from the hub, by its own client, which is httpx's or, before 1.0, requests'."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = {**build_hf_headers(token=fs.token), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    session: Any = get_session()  # whichever it is
    url = fs.url(path)
    if callable(session.stream):
        opened = session.stream("GET", url, headers=headers, timeout=SILENCE)
    else:
        opened = session.get(url, headers=headers, timeout=SILENCE, stream=True)
    with opened as answer:
        partial = answer.status_code == 206
        if partial or answer.status_code >= 400:
            data = answer.read() if hasattr(answer, "read") else answer.content
        if not partial and answer.status_code != 416:
            hf_raise_for_status(answer)
        return answer.status_code, answer.headers.get("Content-Range", ""), data if partial else b""


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of requests, httpx or aiohttp carries."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            if isinstance(value := getattr(holder, name, None), int):
                return value
    return None


def is_offline(error: BaseException) -> bool:
    """Whether the hub's client was told to stay offline. It has had this exception in several modules."""
    return type(error).__name__ == "OfflineModeIsEnabled"


def _asked_wait(error: BaseException) -> float:
    """The seconds that a server asks to wait with the error; 0 where it does not."""
    headers = getattr(getattr(error, "response", error), "headers", None) or {}
    with contextlib.suppress(ValueError):  # a date: no server is known that sends one here
        return float(headers.get("Retry-After", 0))
    return 0.0


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _files(
    data_dir: str | os.PathLike[str], options: Mapping[str, Any] | None = None, token: bool | str | None = None
) -> Any:
    """The files of a folder, local or remote."""
    data_dir = os.fspath(data_dir)
    if "://" not in data_dir and "::" not in data_dir and _VECTORS:
        return _LocalFiles(os.path.abspath(os.path.expanduser(data_dir)))  # whoever reads it may be elsewhere by then
    if data_dir.startswith("file://") and _VECTORS:
        return _LocalFiles(fsspec.core.url_to_fs(data_dir)[1])
    options = dict(options or {})
    if data_dir.startswith("hf://") and token is not None:
        options.setdefault("token", token)
    return _RemoteFiles(data_dir, options)


# --- reading: rows ---------------------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """Adjoining rows of one shard, counted among those that match the filters."""

    subset: str
    shard: str  # its name in the manifest
    first: int
    last: int  # one behind


@dataclass(frozen=True)
class Skipped:
    """A sample that `on_error="skip"` left out."""

    key: str
    shard: str
    reason: str


LABELS = {"subset": tuple(SUBSETS), "gsd_level": GSD_LEVELS, "weather": WEATHERS}  # columns of few values, all known


def _check_label(column: str, operation: str, value: Any) -> None:
    """Raises ValueError for a label that does not exist, or a text whose letters would be looked for: no row would have
    it, and nobody would see why."""
    if operation in ("in", "not in") and isinstance(value, str):
        raise ValueError(f"{column!r} {operation} {value!r}: give a list, or the operation ==")
    values = value if isinstance(value, (list, tuple, set)) else [value]
    if column in LABELS and (strange := [one for one in values if one not in LABELS[column]]):
        raise ValueError(f"{strange[0]!r} is no {column}; these are {', '.join(LABELS[column])}")


class _Selection:
    """Which rows: `filters` and `contains` as one expression, and the index columns that it looks at."""

    def __init__(self, filters: Any, contains: str | Sequence[str] | None, modalities: Sequence[str]) -> None:
        self.expression: pc.Expression | None = None
        schema = index_schema()
        if filters is not None and not isinstance(filters, pc.Expression):
            try:
                named = {term[0] for part in filters for term in (part if isinstance(part, list) else [part])}
                if unknown := named - set(schema.names):
                    raise ValueError(f"no column {', '.join(map(repr, sorted(unknown)))}. The index has {schema.names}")
                for part in filters:
                    for term in part if isinstance(part, list) else [part]:
                        _check_label(*term)
                filters = pq.filters_to_expression(filters) if filters else None
            except (ValueError, TypeError, IndexError) as error:
                raise ValueError(
                    f'filters={filters!r}: {error}. Give [("gsd_level", "==", "low"), ...], or a list of such lists, '
                    "or a pyarrow.compute expression"
                ) from None
        self.expression = filters
        texts = [contains] if isinstance(contains, str) else contains or []
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"contains={contains!r}: give a text or a list of texts")
        for text in texts:
            found = None
            for modality in modalities:
                one = pc.match_substring(pc.field(PROMPT_COLUMNS[modality]), text, ignore_case=True)
                found = one if found is None else found | one
            self.expression = found if self.expression is None else self.expression & found
        # The text of an expression names its columns, perhaps among other words; one column too many does no harm.
        words = set(re.findall(r"\w+", str(self.expression)))
        self.columns = [name for name in schema.names if name in words]
        if self.expression is not None:
            self.positions(schema.empty_table())  # says what does not fit
            try:
                pickle.dumps(self.expression)
            except pa.ArrowException:
                raise ValueError(f"filters: {filters}: cannot be handed to workers. Name columns, whole ones") from None

    def positions(self, rows: pa.Table) -> pa.Array:
        """The positions of the rows that match. Raises ValueError for a filter that does not fit the columns."""
        numbered = rows.append_column("__position__", pa.array(np.arange(rows.num_rows)))
        try:
            return numbered.filter(self.expression)["__position__"].combine_chunks()
        except (pa.ArrowException, TypeError) as error:
            raise ValueError(f"filters: {_line(error)}. The index has {index_schema()}") from None


class _Converted:
    """A converted dataset: what the manifest says, and tables of rows made from index and shards."""

    counted = True  # `segments` says exactly how many rows there are

    def __init__(self, files: Any, manifest: Mapping[str, Any]) -> None:
        self.files, self.manifest, self.remote = files, manifest, files.remote
        self.shards = {shard["name"]: shard for shard in manifest["shards"]}
        self._indexes: dict[str, tuple[pq.ParquetFile, np.ndarray]] = {}
        self._groups: OrderedDict[Any, pa.Table] = OrderedDict()
        self._lock = threading.Lock()  # of what is kept: `shuffle` of datasets 5.2 reads pieces in threads
        self._made: tuple[datasets.Features, pa.Schema] | None = None

    def __reduce__(self) -> Any:
        return _Converted, (self.files, self.manifest)

    def __str__(self) -> str:
        return str(self.files)

    @property
    def subsets(self) -> list[str]:
        return list(self.manifest["subsets"])

    def digest(self, subsets: Sequence[str]) -> str:
        """Identifies the content of these subsets."""
        return subsets_digest(self.manifest, subsets)

    def splits(self, subsets: Sequence[str]) -> list[str]:
        """The splits that these subsets have, train first."""
        return split_names(self.manifest, subsets)

    def segments(self, subset: str, split: str, selection: _Selection) -> list[Segment]:
        """The rows of a subset's split that match, one segment a shard."""
        names = [
            shard["name"] for shard in self.manifest["shards"] if (shard["subset"], shard["split"]) == (subset, split)
        ]
        if selection.expression is None:
            return [Segment(subset, name, 0, self.shards[name]["samples"]) for name in names]
        counts = [len(selection.positions(self.index_rows(subset, name, selection.columns))) for name in names]
        return [Segment(subset, name, 0, count) for name, count in zip(names, counts, strict=True) if count]

    def index_rows(self, subset: str, shard: str, columns: Sequence[str]) -> pa.Table:
        """The index rows of one shard. Raises ReadError where index and manifest contradict each other."""
        start = 0
        for name, row in self.shards.items():
            if name == shard:
                break
            if row["subset"] == subset:
                start += row["samples"]
        count = self.shards[shard]["samples"]
        name = index_name(subset)
        wanted = [*dict.fromkeys(["shard", *columns])]
        with self._lock:
            index, bounds = self._index(subset)
            first, last = np.searchsorted(bounds, [start, start + count - 1], side="right") - 1
            groups = range(int(first), int(last) + 1)
            asked = (name, groups, tuple(wanted))
            if asked not in self._groups:
                self._groups[asked] = self._read(name, index, list(groups), wanted)
                while len(self._groups) > ROW_GROUPS_KEPT:
                    self._groups.popitem(last=False)
            rows = self._groups[asked].slice(start - int(bounds[first]), count)
        if rows.num_rows != count or not pc.all(pc.equal(rows["shard"], shard)).as_py():
            raise ReadError(
                f"{self.files}/{name}: rows {start} to {start + count} are not the {count} samples that the "
                f"manifest has in {shard}. Fetch index and manifest again"
            )
        return rows

    def find(self, key: str) -> Segment | None:
        """Where the sample of this key is."""
        folder = key.split("/", 1)[0]
        subset = next((name for name in self.subsets if re.sub(r"[^A-Za-z0-9_-]", "_", name) == folder), None)
        if subset is None:
            return None
        name = index_name(subset)
        index, bounds = self._index(subset)
        mine = [shard for shard in self.shards.values() if shard["subset"] == subset]
        # The samples of a split are sorted by a hash of their key, so it lies in about this row of each.
        share = int.from_bytes(key_hash(key, self.manifest["options"]["seed"]), "big") / 2**64
        guesses, start = [], 0
        for split in dict.fromkeys(shard["split"] for shard in mine):
            count = sum(shard["samples"] for shard in mine if shard["split"] == split)
            guesses.append(np.searchsorted(bounds, start + int(share * count), side="right") - 1)
            start += count
        groups = range(index.num_row_groups)
        for group in sorted(groups, key=lambda group: min(abs(group - guess) for guess in guesses)):
            at = pc.index(self._read(name, index, [group], ["key"])["key"], key).as_py()
            if at >= 0:
                row = int(bounds[group]) + at
                for shard in mine:
                    if row < shard["samples"]:
                        return Segment(subset, shard["name"], row, row + 1)
                    row -= shard["samples"]
        return None

    def _read(self, name: str, index: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        try:
            return index.read_row_groups(groups, columns=columns).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise ReadError(
                f"{self.files}/{name}: row groups {groups} cannot be read: {_line(error)}. Fetch it again"
            ) from error

    def _index(self, subset: str) -> tuple[pq.ParquetFile, np.ndarray]:
        if subset not in self._indexes:
            name, expected = index_name(subset), self.manifest["subsets"][subset]["samples"]
            try:
                # Columns that lie together are fetched together: fewer requests.
                file = pq.ParquetFile(self.files.open(name), pre_buffer=self.files.remote)
            except (pa.ArrowException, OSError) as error:
                raise ReadError(f"{self.files}/{name}: cannot be read: {_line(error)}") from error
            metadata = file.metadata
            counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            if sum(counts) != expected:
                raise ReadError(
                    f"{self.files}/{name}: has {sum(counts)} rows, the manifest says {expected}. Fetch index "
                    "and manifest again"
                )
            self._indexes[subset] = file, np.cumsum([0, *counts])
        return self._indexes[subset]

    def tables(
        self,
        segment: Segment,
        features: datasets.Features,
        selection: _Selection,
        check: bool,
        skipped: list[Skipped] | None,
    ) -> Iterator[tuple[pa.Table, Sequence[int]]]:
        """The rows of a segment, as tables of about BATCH_BYTES (remote: more) in the builder's columns.

        Beside a table stand the positions of its rows in the segment. `check`: compare each image's CRC with the index.
        `skipped`: where samples go that cannot be read; None raises ReadError for them.
        """
        modalities = [modality for modality in MODALITIES if modality in features]
        places = [f"{m}_{name}" for m in modalities for name in ("offset", "size", "crc32")]
        plain = [name for name in features if name not in modalities]
        rows = self.index_rows(segment.subset, segment.shard, [*plain, *places, *selection.columns])
        if selection.expression is not None:
            rows = rows.take(selection.positions(rows))
        rows = rows.slice(segment.first, segment.last - segment.first)
        if rows.num_rows != segment.last - segment.first:
            raise ReadError(
                f"{self.files}/{index_name(segment.subset)}: {rows.num_rows} rows of {segment.shard} match, "
                f"{segment.last - segment.first} did before: it was changed meanwhile"
            )
        if skipped is None:
            self.check_size(segment.shard)
        sizes = np.sum([_numbers(rows, f"{m}_size") for m in modalities], axis=0)
        columns = {name: column(rows, name, features[name]) for name in plain}
        for first, last in _batches(sizes, SPAN * REQUESTS if self.files.remote else BATCH_BYTES):
            mine = {name: values.slice(first, last - first) for name, values in columns.items()}
            table, bad = self._table(rows.slice(first, last - first), mine, segment, features, check, skipped)
            yield table, [at for at in range(first, last) if at - first not in bad] if bad else range(first, last)

    def check_size(self, shard: str) -> None:
        """Raises ReadError where a shard is absent or has not the size that the manifest says."""
        expected = self.shards[shard]["bytes"]
        try:
            size = self.files.size(shard)
        except FileNotFoundError:
            raise ReadError(
                f"{self.files}/{shard}: not found; the manifest says {expected} bytes. Fetch it again"
            ) from None
        if size not in (None, expected):  # some servers do not tell
            raise ReadError(
                f"{self.files}/{shard}: has {size} bytes, the manifest says {expected}: it is cut short or of "
                "another conversion. Fetch it again; `mmm-rs verify` tells which shards are whole"
            )

    def _table(
        self,
        rows: pa.Table,
        columns: Mapping[str, pa.Array],
        segment: Segment,
        features: datasets.Features,
        check: bool,
        skipped: list[Skipped] | None,
    ) -> tuple[pa.Table, Mapping[int, Any]]:
        """The rows that can be read, and the positions of those that cannot. `columns`: all but the images."""
        modalities = [name for name in features if name not in columns]
        images, wrong = self._images(rows, segment.shard, modalities, check)
        both = {**columns, **images}
        table = pa.Table.from_arrays([both[name] for name in features], schema=self._schema(features))
        if not wrong:
            return table, wrong
        keys = rows["key"]
        if skipped is None:
            row, (modality, reason) = min(wrong.items())
            raise ReadError(
                f"{self.files}/{segment.shard}: the {modality} image of {keys[row].as_py()}: {reason}. Fetch "
                "the shard again; `mmm-rs verify` tells which shards are whole"
            )
        for row, (modality, reason) in sorted(wrong.items()):
            one = Skipped(keys[row].as_py(), segment.shard, f"{modality}: {reason}")
            skipped.append(one)
            logger.info(f"{self.files}/{one.shard}: skipped {one.key}: {one.reason}")
        good = np.ones(rows.num_rows, bool)
        good[list(wrong)] = False
        return table.filter(pa.array(good)), wrong

    def _schema(self, features: datasets.Features) -> pa.Schema:
        """Its Arrow schema, which `datasets` takes a millisecond to make."""
        if self._made is None or self._made[0] is not features:
            self._made = features, features.arrow_schema
        return self._made[1]

    def _images(
        self, rows: pa.Table, shard: str, modalities: Sequence[str], check: bool
    ) -> tuple[dict[str, pa.Array], dict[int, tuple[str, str]]]:
        """Columns of images, and what is wrong: row -> (modality, reason)."""
        offsets, lengths, targets, places, columns = [], [], [], [], {}
        room = self.shards[shard]["bytes"]
        for modality in modalities:
            length, offset = _numbers(rows, f"{modality}_size"), _numbers(rows, f"{modality}_offset")
            if outside := np.flatnonzero((offset < 0) | (length < 0) | (offset + length > room)).tolist():
                row = outside[0]
                raise ReadError(
                    f"{self.files}/{shard}: by the index the {modality} image of {rows['key'][row].as_py()} has "
                    f"{length[row]} bytes at {offset[row]}, by the manifest the shard has {room} in all. Fetch index "
                    "and manifest again"
                )
            there = np.flatnonzero(rows[f"{modality}_size"].is_valid().to_numpy())
            ends = np.cumsum(length)
            buffer = pa.allocate_buffer(int(ends[-1]))
            view = memoryview(buffer).cast("B")
            targets += [
                view[end - size : end] for end, size in zip(ends[there].tolist(), length[there].tolist(), strict=True)
            ]
            offsets.append(offset[there])
            lengths.append(length[there])
            places += [(modality, row) for row in there.tolist()]
            bounds = pa.py_buffer(np.concatenate([[0], ends]).astype(np.int32))
            data = pa.Array.from_buffers(pa.binary(), rows.num_rows, [None, bounds, buffer])
            paths = pc.binary_join_element_wise(rows["key"].combine_chunks(), MEMBERS[modality].image, ".")
            columns[modality] = pa.StructArray.from_arrays(
                [data, paths], fields=list(IMAGE_TYPE), mask=rows[f"{modality}_size"].combine_chunks().is_null()
            )
        if not places:
            return columns, {}
        wanted = _Wanted(np.concatenate(offsets), np.concatenate(lengths), targets)
        try:
            wrong = {wanted.order[at]: reason for at, reason in self.files.fill(shard, wanted).items()}
        except OSError as error:  # not there, may not be read, a bad disk: then none of them came
            wrong = dict.fromkeys(range(len(places)), _line(error))
        if check:
            expected = np.concatenate([rows[f"{m}_crc32"].drop_null().to_numpy() for m in modalities]).tolist()
            for at, (crc, target) in enumerate(zip(expected, targets, strict=True)):
                if at not in wrong and _crc32(target) != crc:
                    wrong[at] = f"its CRC is not {crc:#010x}, as the index says: its bytes are damaged"
        by_row: dict[int, tuple[str, str]] = {}
        for at in sorted(wrong):
            modality, row = places[at]
            by_row.setdefault(row, (modality, wrong[at]))
        return columns, by_row


IMAGE_TYPE = datasets.Image().pa_type  # struct<bytes: binary, path: string>


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column of integers, 0 where null."""
    return rows[name].fill_null(0).to_numpy()


def column(rows: pa.Table, name: str, feature: Any) -> pa.Array:
    """An index column in the builder's type. Raises ReadError for a label that is none of the feature's names."""
    column = rows[name].combine_chunks()
    if isinstance(feature, datasets.ClassLabel):
        found = pc.index_in(column, value_set=pa.array(feature.names))
        if found.null_count != column.null_count:
            strange = pc.unique(column.filter(pc.and_(found.is_null(), column.is_valid()))).to_pylist()
            raise ReadError(
                f"index, column {name}: {strange} are none of {feature.names}. It was written by another "
                "version: convert again, or use the mmm_rs.py that lies beside the data"
            )
        return found.cast(pa.int64())
    if isinstance(feature, dict):
        return pa.StructArray.from_arrays([pc.struct_field(column, part) for part in feature], names=list(feature))
    return column


def _batches(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of rows that together have about `most` bytes; never none."""
    first, total = 0, 0
    for at, size in enumerate(sizes.tolist()):
        if at > first and total + size > most:
            yield first, at
            first, total = at, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)


def cut(segments: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    """Segments cut and joined into pieces of equal size, to within one row, in the same order.

    The larger ones come first. As `datasets` deals pieces out in turn, nodes then get equally many rows, to within one.
    """
    rows = sum(segment.last - segment.first for segment in segments)
    count = min(rows, PIECE_MULTIPLE * -(-rows // (PIECE_MULTIPLE * PIECE_ROWS)))
    left = [segment for segment in reversed(segments) if segment.first < segment.last]
    pieces = []
    for number in range(count):
        room = rows // count + (number < rows % count)
        piece = []
        while room:
            segment = left.pop()
            taken = segment._replace(last=min(segment.first + room, segment.last))
            if taken.last < segment.last:
                left.append(segment._replace(first=taken.last))
            room -= taken.last - taken.first
            piece.append(taken)
        pieces.append(tuple(piece))
    return pieces


def _open_source(
    data_dir: str | os.PathLike[str] | None,
    storage_options: Mapping[str, Any] | None = None,
    token: bool | str | None = None,
) -> Any:
    """What reads `data_dir`: a converted dataset, or else the release itself. Raises ReadError where it is neither."""
    if not data_dir:  # an empty text would be the current folder
        raise ValueError("data_dir: give the folder or URL of a converted dataset, or the release")
    files = _files(data_dir, storage_options, token)
    manifest = _read_manifest(files)
    if manifest is not None:
        return _Converted(files, manifest)
    if not files.remote and not os.path.exists(files.root):
        raise ReadError(f"{files}: no such file or folder. What is on the hub is given as hf://datasets/org/name")
    if files.remote:
        raise ReadError(
            f"{files}: no manifest.json there. Check the address and, if it is private, that you are logged in"
        )
    try:
        from conversion.rows import ReleaseRows
    except ImportError:
        raise ReadError(
            f"{files}: no manifest.json there. To read a release that is not converted, install the package "
            "mmm-rs, which this file belongs to"
        ) from None
    return ReleaseRows(files.root)


def _open_converted(
    data_dir: str | os.PathLike[str], storage_options: Mapping[str, Any] | None, token: bool | str | None
) -> _Converted:
    """The same, of a converted dataset alone."""
    source = _open_source(data_dir, storage_options, token)
    if not isinstance(source, _Converted):
        raise ReadError(f"{source}: is not converted: it has neither shards nor an index. Convert the release first")
    return source


def _read_manifest(files: Any) -> dict[str, Any] | None:
    """The manifest; None where there is none. Raises ReadError where it cannot be used."""
    try:
        manifest = json.loads(files.read("manifest.json"))
        version, digest = str(manifest["format_version"]), manifest["digest"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ReadError(f"{files}/manifest.json: cannot be read: {_line(error)}. Fetch it again") from error
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise ReadError(
            f"{files}/manifest.json: format {version}, this module reads {FORMAT_VERSION}. Use the mmm_rs.py that "
            "lies beside the data"
        )
    if digest != manifest_digest(manifest):
        raise ReadError(
            f"{files}/manifest.json: was edited or damaged: its digest should be {manifest_digest(manifest)} and is "
            f"{digest}. Fetch it again"
        )
    return manifest


# --- the builder -----------------------------------------------------------------------------------------------------


@dataclass
class MMMRSConfig(datasets.BuilderConfig):
    """One subset, or all of them.

    `modalities`: only these columns and bytes, of rgb, nir, sar. None: all that the subset has.
    `filters`: rows to read, over the index's columns, in the form of `datasets` and pyarrow for Parquet:
    `[("gsd_level", "==", "low"), ...]` (all must hold; of a list of such lists: one) or a `pyarrow.compute` expression.
    `contains`: texts that must all occur in a prompt of the chosen modalities; case does not matter.
    `on_error`: "raise" for a sample whose bytes are damaged or missing, or "skip" it and list it at the end.
    `decode`: give `PIL.Image`; False: `{"bytes": ..., "path": ...}`.
    `check`: compare each image's CRC with the index. None: where that costs less than 5 % of the time, which is over
    the network, with `decode`, and with on_error="skip".
    `digest`: of the shards, filled in by the builder; data converted again so get a cache of their own.
    """

    modalities: Sequence[str] | None = None
    filters: Any = None
    contains: str | Sequence[str] | None = None
    on_error: str = "raise"
    decode: bool = True
    check: bool | None = None
    digest: str | None = None


class MMMRS(datasets.ArrowBasedBuilder):
    """MMM-RS from a converted folder (local, `hf://` or any fsspec URL), or from the release itself, as `data_dir`."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = MMMRSConfig
    BUILDER_CONFIGS: ClassVar = [
        MMMRSConfig(name=name, version=datasets.Version("1.0.0"), description=f"{name} of MMM-RS")
        for name in [*SUBSETS, ALL]
    ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A card beside this script describes the shards as they load without code; the columns here are others.
        kwargs.pop("info", None)
        subset_names(kwargs.get("config_name"))  # a wrong name is said first
        self._source = _open_source(kwargs.get("data_dir"), kwargs.get("storage_options"), kwargs.get("token"))
        self._subsets = [name for name in subset_names(kwargs.get("config_name")) if name in self._source.subsets]
        if not self._subsets:
            raise ReadError(
                f"{self._source}: holds no {kwargs['config_name']}. It has {', '.join(self._source.subsets)}"
            )
        chosen = chosen_modalities(kwargs["config_name"], kwargs.get("modalities"))
        self._selection = _Selection(kwargs.get("filters"), kwargs.get("contains"), chosen)
        kwargs["digest"] = self._source.digest(self._subsets)
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
        config, source = self.config, self._source
        generators, expected = [], datasets.SplitDict()
        for split in source.splits(self._subsets):
            segments = self._segments(split)
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"pieces": cut(segments)}))
            rows = sum(segment.last - segment.first for segment in segments)
            expected.add(datasets.SplitInfo(name=split, num_examples=rows))
        if source.counted and config.on_error == "raise":
            self.info.splits = expected  # `datasets` compares it with what it has counted
        return generators

    def _segments(self, split: str) -> list[Segment]:
        source = self._source
        return [found for name in self._subsets for found in source.segments(name, split, self._selection)]

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """As in `datasets`. Says how many samples were skipped, also where another process or an older run did it."""
        counted = self._source.counted and self.config.on_error == "skip"
        for split, info in (self.info.splits or {}).items() if counted else ():
            expected = sum(segment.last - segment.first for segment in self._segments(split))
            if info.num_examples < expected:
                logger.warning(
                    f"{self.config.name}: {info.num_examples} of {expected} samples of {split} are there, the others "
                    f"were skipped. Once they are mended, delete {self.cache_dir} to have them too"
                )
        return super().as_dataset(*args, **kwargs)

    def _as_dataset(self, split: Any = "train", **kwargs: Any) -> datasets.Dataset:
        info = (self.info.splits or {}).get(str(split))
        if info is not None and not info.num_examples:  # for `datasets` that is an error, not a data set without rows
            table = self.info.features.arrow_schema.empty_table()
            return datasets.Dataset(table, info=self.info.copy(), split=datasets.NamedSplit(str(split)))
        return super()._as_dataset(split, **kwargs)

    def _generate_tables(self, pieces: Sequence[tuple[Segment, ...]]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        with self._skipping() as skipped:
            for number, piece in enumerate(pieces):
                for at, (table, _) in enumerate(self._tables(piece, 0, skipped)):
                    yield (number, at), table

    def _tables(
        self, piece: Sequence[Segment], start: int, skipped: list[Skipped] | None
    ) -> Iterator[tuple[pa.Table, Sequence[int]]]:
        """The rows of a piece from row `start` on, as tables, and for each row how many of the piece it completes."""
        config, source, before = self.config, self._source, 0
        check = config.check
        if check is None:
            check = source.remote or config.decode or skipped is not None
        for segment in piece:
            rows = segment.last - segment.first
            if before + rows > start:
                begun = max(start - before, 0)
                rest = segment._replace(first=segment.first + begun)
                for table, positions in source.tables(rest, self.info.features, self._selection, check, skipped):
                    if table.num_rows:
                        yield table, [before + begun + at + 1 for at in positions]
            before += rows

    @contextlib.contextmanager
    def _skipping(self) -> Iterator[list[Skipped] | None]:
        """Where samples go that cannot be read, to be listed at the end, however it comes; None: they are errors."""
        skipped: list[Skipped] | None = [] if self.config.on_error == "skip" else None
        try:
            yield skipped
        finally:
            if skipped:
                self._report(skipped)

    def _report(self, skipped: list[Skipped]) -> None:
        self.skipped += skipped
        listed = "; ".join(f"{one.key} in {one.shard} ({one.reason})" for one in skipped)
        logger.warning(f"{self.config.name}: {len(skipped)} samples skipped: {listed}")

    def _get_examples_iterable_for_split(self, split_generator: datasets.SplitGenerator) -> Any:
        return _Pieces(self, split_generator.gen_kwargs["pieces"])


# Whether an `IterableDataset` may be given decoded images. Then it must take all but whole rows from Arrow tables:
# where a wrapper has rows only (before 5.0), `map` behind it would encode the images anew, with loss.
_MAY_DECODE = all(
    {"iter_arrow", "features"} <= vars(wrapper).keys()
    for wrapper in _BaseExamplesIterable.__subclasses__()
    if wrapper.__name__ not in ("ExamplesIterable", "ArrowExamplesIterable")
)


class _Pieces(_BaseExamplesIterable):
    """The rows of a split for an `IterableDataset`: what `datasets` makes of a builder's tables by itself, but

    - it goes on in the middle of a piece by the index, where `datasets` would read from the beginning and skip;
    - it makes Python rows of a table's columns at once, where `datasets` slices the table row by row;
    - it knows when all is read, so that it can list what was skipped.

    The state is the number of pieces done and of the next one's rows done.
    """

    _sleep_on_threads_shutdown = False  # `datasets` 5.2 asks each of its sources; no thread of pyarrow's reads here

    def __init__(self, builder: MMMRS, pieces: list[tuple[Segment, ...]], encoded: bool = False) -> None:
        super().__init__()
        self.builder, self.pieces, self.encoded = builder, pieces, encoded

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pieces:
        # `datasets` copies deeply to mix several data sets, and takes the first one's word for the rows of all.
        return _Pieces(self.builder, self.pieces, encoded=True)

    @property
    def iter_arrow(self) -> Any:
        return self._iter_arrow

    @property
    def features(self) -> datasets.Features | None:
        """What the rows of `__iter__` have already, so that nothing is left to do; None: they are as in Arrow."""
        decode = self.builder.config.decode
        return self.builder.info.features if not self.encoded and (_MAY_DECODE or not decode) else None

    @property
    def num_shards(self) -> int:
        return max(1, len(self.pieces))

    n_shards = num_shards  # its name before 3.0

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = {"piece": 0, "row": 0, "type": type(self).__name__}
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        decode = self.features is not None and self.builder.config.decode
        for state, table, counts in self._iter_tables():
            columns: list[Iterable[Any]] = []
            for name, column in zip(table.column_names, table.columns, strict=True):
                cells = _to_python(column.combine_chunks())
                columns.append(map(_open_image, cells) if decode and name in MODALITIES else cells)
            for row, values in enumerate(zip(*columns, strict=True)):
                state["row"] = counts[row]
                yield f"{state['piece']}_{counts[row]}", dict(zip(table.column_names, values, strict=True))

    def _iter_arrow(self) -> Iterator[tuple[str, pa.Table]]:
        for state, table, counts in self._iter_tables():
            state["row"] = counts[-1]
            yield f"{state['piece']}_{counts[-1]}", table

    def _iter_tables(self) -> Iterator[tuple[dict[str, Any], pa.Table, Sequence[int]]]:
        builder = self.builder
        state: dict[str, Any] = self._state_dict or {"piece": 0, "row": 0}
        with builder._skipping() as skipped:
            while state["piece"] < len(self.pieces):
                for table, counts in builder._tables(self.pieces[state["piece"]], state["row"], skipped):
                    yield state, table, counts
                state["piece"] += 1
                state["row"] = 0

    def shuffle_data_sources(self, generator: np.random.Generator) -> _Pieces:
        order = copy.deepcopy(generator).permutation(len(self.pieces))
        return _Pieces(self.builder, [self.pieces[number] for number in order], self.encoded)

    def shard_data_sources(self, *args: Any, **kwargs: Any) -> _Pieces:
        numbers = self.split_shard_indices_by_worker(*args, **kwargs)  # its arguments differ between versions
        mine = [self.pieces[number] for number in numbers if number < len(self.pieces)]
        return _Pieces(self.builder, mine, self.encoded)

    def reshard_data_sources(self) -> _Pieces:
        return self


def _open_image(stored: dict[str, Any] | None) -> PIL.Image.Image | None:
    """The image as the `Image` feature gives it, but decoded when it is first looked at: shuffle buffers stay small."""
    if stored is None:
        return None
    image: PIL.Image.Image = PIL.Image.open(io.BytesIO(stored["bytes"]))
    if image.getexif().get(_ORIENTATION) is not None:
        image = PIL.ImageOps.exif_transpose(image)
    return image


_ORIENTATION = 0x0112  # Exif's tag


def _to_python(column: pa.Array) -> list[Any]:
    """`column.to_pylist()`, which is slow for structs."""
    if not pa.types.is_struct(column.type):
        return column.to_pylist()
    names = [field.name for field in column.type]
    rows = zip(*(_to_python(column.field(number)) for number in range(len(names))), strict=True)
    there = column.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if valid else None for row, valid in zip(rows, there, strict=True)]


def load_dataset(
    config: str,
    data_dir: str,
    split: str | None = "train",
    streaming: bool = False,
    *,
    modalities: Sequence[str] | None = None,
    filters: Any = None,
    contains: str | Sequence[str] | None = None,
    on_error: str = "raise",
    decode: bool = True,
    check: bool | None = None,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Any:
    """Load a config: an `IterableDataset` with `streaming`, else a `Dataset`; a dictionary of them for `split=None`.

    `config`: a subset's name or "all". `data_dir`: a converted folder, local, `hf://datasets/org/MMM-RS` or any fsspec
    URL, or the release. `num_proc`: processes that prepare a `Dataset`. The rest is described at `MMMRSConfig`.

    Raises ValueError for an argument that does not fit, ReadError for data that cannot be read or are not whole.
    """
    builder = MMMRS(
        cache_dir=cache_dir,
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
    )
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def get(
    data_dir: str,
    key: str,
    *,
    modalities: Sequence[str] | None = None,
    decode: bool = True,
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One sample of a converted dataset by its key, as a row of the builder. Its images are the only ones read.

    Raises KeyError where there is no such key, ReadError for data that cannot be read or are not whole.
    """
    source = _open_converted(data_dir, storage_options, token)
    segment = source.find(key)
    if segment is None:
        raise KeyError(f"{source}: no sample {key!r}. Keys are `<Subset>/<path>`; the index lists them")
    columns = features(segment.subset, modalities, decode)
    table, _ = next(source.tables(segment, columns, _Selection(None, None, ()), True, None))
    return columns.decode_example(table.to_pylist()[0])


def webdataset(
    config: str,
    data_dir: str,
    split: str = "train",
    *,
    shuffle: int = 1000,
    decode: str | None = "pil",
    token: bool | str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Any:
    """A pipeline of the `webdataset` library over the shards: members by suffix, as the table MEMBERS has them.

    Shards are shuffled, then dealt out to nodes and workers, each to one; give no more of those than there are shards.
    Samples are shuffled in a buffer of `shuffle`; 0 for none, and for shards in order. `decode`: as webdataset's;
    None for bytes. A shard that ends early raises ReadError, and network reads are tried again.
    """
    import webdataset as wds

    source = _open_converted(data_dir, storage_options, token)
    wanted = subset_names(config)
    names = [name for name, row in source.shards.items() if row["subset"] in wanted and row["split"] == split]
    if not names:
        raise ReadError(f"{source}: no shards of {config}, split {split}. It has {', '.join(source.subsets)}")
    stages = [wds.SimpleShardList(names), wds.split_by_node, wds.split_by_worker, _Shards(source), wds.shuffle(shuffle)]
    if shuffle:
        stages.insert(1, wds.detshuffle(len(names)))
    if decode is not None:
        stages.append(wds.decode(decode))
    return wds.DataPipeline(*stages)


class _Shards:
    """A stage of a webdataset pipeline: names of shards in, samples out, as many as the manifest says."""

    def __init__(self, source: _Converted) -> None:
        self.source = source

    def __call__(self, shards: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for shard in shards:
            name, count = shard["url"], 0
            self.source.check_size(name)
            with self.source.files.stream(name) as stream:
                for sample in group_by_keys(tar_file_expander([{"url": name, "stream": stream}])):
                    count += 1
                    yield sample
            expected = self.source.shards[name]["samples"]
            if count != expected:
                raise ReadError(
                    f"{self.source}/{name}: {count} samples came, the manifest says {expected}. Fetch the shard "
                    "again; `mmm-rs verify` tells which shards are whole"
                )
