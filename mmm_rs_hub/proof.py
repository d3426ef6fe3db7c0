"""Proof that a copy on the hub is what was converted: of an upload against the folder, of any copy against itself.

The hub tells the size and checksum of each file without sending it: sha256 for files kept by LFS or Xet, git's own for
small text. They prove that the shards are the manifest's. The small files are downloaded and must agree with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import layout, report, verification
from conversion.contents import left_by_others, remarks
from conversion.display import first_of, size
from conversion.errors import MMMRSError, VerificationError
from conversion.job import Progress
from conversion.manifest import is_as_described
from dataset_card import card
from dataset_card.statistics import Converted, read_converted, read_manifest, rows_by_shard
from mmm_rs import MODALITIES, SUBSETS, ConvertedSource, index_schema, open_source
from mmm_rs_hub.client import AGAIN, Hub, default_api, without_bars
from mmm_rs_hub.destination import parse_url
from mmm_rs_hub.files import Listing, LocalFile, holds, local_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OWN_FOLDERS = tuple(f"{folder}/" for folder in layout.FOLDERS)  # nothing but the conversion's files belongs there
READ = tuple(
    f"{folder}/" for folder in (layout.DATA, layout.INDEX, layout.REPORT)
)  # the manifest tells every file of these

SMALL = frozenset(
    (
        layout.CARD,
        layout.MANIFEST,
        layout.CROISSANT,
        layout.SUMMARY,
        layout.UNPUBLISHED,
        layout.MODULE,
        *map(layout.index_name, SUBSETS),
    )
)  # the files that are downloaded and compared


@dataclass(frozen=True)
class Proof:
    """What was compared on the hub and found equal."""

    repo_id: str
    revision: str  # the commit
    files: int
    shards: int
    samples: int
    bytes: int
    config: str  # one that can be loaded
    sent: int = 0  # files that this run sent
    read: int = 0  # shards that were downloaded and read

    @property
    def url(self) -> str:
        return f"hf://datasets/{self.repo_id}@{self.revision}"

    def lines(self) -> list[str]:
        """What was proved, for a person."""
        shards = f"{self.shards:,} shards with {self.samples:,} samples, as the manifest says"
        return [
            self.url,
            f"{self.files:,} files, {size(self.bytes)}, have the expected size and checksum",
            shards + (f"; {self.read:,} downloaded and read" if self.read else ""),
        ]


def prove(hub: Hub, manifest: dict[str, Any], files: Sequence[LocalFile], sent: int) -> Proof:
    """Compare the hub with the folder and the manifest. Raises VerificationError with the differences."""
    commit = hub.commit()
    listing = hub.with_revision(commit).listing()
    faults = [_difference(file.path, file.size, file.sha256, listing) for file in files if not holds(listing, file)]
    faults += shard_faults(manifest, listing)
    faults += [
        f"{path}: is on the hub, but not in the manifest"
        for path in stale_files(listing, {file.path for file in files})
    ]
    if faults:
        raise VerificationError(f"{hub.repo_id}: the hub's copy is not this folder's. {AGAIN}", *first_of(faults))
    total = sum(file.size for file in files)
    samples = sum(shard["samples"] for shard in manifest["shards"])
    return Proof(
        hub.repo_id, commit, len(files), len(manifest["shards"]), samples, total, next(iter(manifest["subsets"])), sent
    )


def shard_faults(manifest: dict[str, Any], listing: Listing) -> list[str]:
    """How shards on the hub differ from the manifest."""
    faults = []
    for shard in manifest["shards"]:
        file = listing.get(shard["name"])
        if not file or (file.size, file.sha256) != (shard["bytes"], shard["sha256"]):
            faults.append(_difference(shard["name"], shard["bytes"], shard["sha256"], listing))
    return faults


def _difference(path: str, length: int, sha256: str, listing: Listing) -> str:
    file = listing.get(path)
    if file is None:
        return f"{path}: is not on the hub"
    if file.size != length:
        return f"{path}: {file.size:,} bytes on the hub, {length:,} expected"
    if file.sha256:
        return f"{path}: sha256 {file.sha256} on the hub, {sha256} expected"
    return f"{path}: another text of the same length on the hub"


def stale_files(listing: Iterable[str], paths: Collection[str]) -> list[str]:
    """Files on the hub in the conversion's own folders that are not among its `paths`: those of an earlier one."""
    return sorted(
        path for path in listing if path.startswith(OWN_FOLDERS) and path not in paths and not left_by_others(path)
    )


def verify_hub(
    url: str,
    deep: bool = False,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    api: HfApi | None = None,
) -> Proof:
    """Prove a copy on the hub by its own manifest, without downloading shards.

    The manifest, card, index and report are downloaded and must agree. The size and sha256 of every shard on the hub
    must be the manifest's.

    Args:
        url: `hf://datasets/org/name[@revision]`.
        deep: Also download each shard, one at a time, and read every member.
        say: Is called with a line about whatever is unusual.
        progress: With `deep`, is called with the bytes read, the bytes in all, and the subset.
        api: The hub's client (default: one for `HF_ENDPOINT` and the token that is logged in).

    Returns:
        What was compared and found equal.

    Raises:
        UsageError: The URL is not the address of a dataset.
        OutputError: The hub cannot be reached.
        VerificationError: The copy is not what its manifest says.
    """
    repo_id, revision = parse_url(url)
    with without_bars():
        named = Hub(repo_id, revision, api or default_api(), say, again="Run the same command again")
        hub = named.with_revision(named.commit())  # whatever is pushed meanwhile
        return _verified(hub, url, deep, progress)


def _verified(hub: Hub, url: str, deep: bool, progress: Progress | None) -> Proof:
    listing = hub.listing()
    small = [path for path in listing if path in SMALL]
    if layout.MANIFEST not in small:
        raise VerificationError(f"{url}: has no {layout.MANIFEST}. Finish its upload, or give another dataset")
    read = 0
    with tempfile.TemporaryDirectory(prefix="mmm-rs-verify-") as folder:
        copy = Path(folder)
        hub.download(copy, small)
        try:
            faults, manifest = check_copy(copy, listing)
        except MMMRSError as error:
            raise VerificationError(str(error).replace(f"{copy}", url)) from None
        incomplete = None if faults else report.incomplete(report.read(copy, manifest["subsets"])["sources"])
        if deep and not faults:
            for shard in _counted(manifest["shards"], progress):
                hub.download(copy, [shard["name"]])
                faults += [
                    fault.replace(f"{copy}/", "") for fault in _read_shard(copy, shard, manifest["format_version"])
                ]
                (copy / shard["name"]).unlink(missing_ok=True)
                read += 1
    for line in remarks(*_rest(listing)):
        hub.say(line)
    if faults:
        raise VerificationError(f"{url}: is not what its manifest says. Upload it again", *first_of(faults))
    if incomplete:
        hub.say(f"{url}: {incomplete}")
    samples = sum(shard["samples"] for shard in manifest["shards"])
    paths = [*small, *(shard["name"] for shard in manifest["shards"])]
    total = sum(listing[path].size for path in paths)
    config = next(iter(manifest["subsets"]))
    return Proof(hub.repo_id, hub.revision, len(paths), len(manifest["shards"]), samples, total, config, read=read)


def _counted(shards: Sequence[dict[str, Any]], progress: Progress | None) -> Iterator[dict[str, Any]]:
    """The shards one after another; tells how many of their bytes are done."""
    done, total = 0, sum(shard["bytes"] for shard in shards)
    for shard in shards:
        if progress:
            progress(done, total, shard["subset"])
        yield shard
        done += shard["bytes"]
    if progress:
        progress(done, total, "shards")


def _rest(listing: Listing) -> tuple[list[str], list[str]]:
    """What other tools left among the dataset's files, and what lies beside these."""
    left = [path for path in listing if path.startswith(OWN_FOLDERS) and left_by_others(path)]
    names = dict.fromkeys(path.split("/")[0] for path in listing)
    return left, [name for name in names if name not in layout.PRODUCTS and not name.startswith(".")]


def check_copy(copy: Path, listing: Listing) -> tuple[list[str], dict[str, Any]]:
    """Faults of a hub copy, and its manifest. `copy`: a folder with its small files."""
    faults = []
    for path in sorted(copy.rglob("*")):
        name = path.relative_to(copy).as_posix()
        if path.is_file() and name in listing and not listing[name].equals(local_file(copy, path)):
            faults.append(f"{name}: the downloaded file is not the one that the hub lists")
    manifest = read_manifest(copy)
    faults += _file_faults(copy, manifest)
    if faults:
        return faults, manifest  # nothing is read of a file that is not the manifest's
    converted = read_converted(copy)
    names = {shard["name"] for shard in manifest["shards"]} | set(map(layout.index_name, manifest["subsets"]))
    names |= {layout.SUMMARY, layout.UNPUBLISHED, *manifest.get("files", ())}
    faults += shard_faults(manifest, listing)
    faults += [f"{path}: is not on the hub" for path in sorted(names - listing.keys())]
    faults += [
        f"{path}: is not in the manifest"
        for path in listing
        if path.startswith(READ) and path not in names and not left_by_others(path)
    ]
    unbalanced = [fault.replace(f"{copy}/", "") for fault in verification.balance(copy)]
    faults += unbalanced or _report_faults(converted)
    rows = rows_by_shard(copy, converted.subsets)
    for shard in manifest["shards"]:
        if rows[shard["name"]] != shard["samples"]:
            faults.append(
                f"{shard['name']}: the index has {rows[shard['name']]} rows, the manifest says {shard['samples']}"
            )
    faults += card.text_faults(_text(copy / layout.CARD), converted)
    return [*faults, *card.croissant_faults(copy, converted)], manifest


def _file_faults(copy: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Files that were downloaded and are not those that the manifest describes."""
    for name, described in manifest.get("files", {}).items():
        if (copy / name).is_file() and not is_as_described(copy / name, described):
            yield f"{name}: its sha256 is not the manifest's: bytes were changed"


def _report_faults(converted: Converted) -> Iterator[str]:
    """Where a report that balances counts other images than the index."""
    for name, statistics in converted.statistics.items():
        indexed = {m: sum(n for held, n in statistics.together.items() if m in held) for m in MODALITIES}
        reported = converted.summary["subsets"].get(name, {}).get("by_modality")
        if reported != indexed:
            yield f"{layout.SUMMARY}: images of {name} by modality are {reported}, the index has {indexed}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _read_shard(copy: Path, shard: dict[str, Any], format_version: str) -> list[str]:
    source = open_source(copy)
    assert isinstance(source, ConvertedSource)
    rows = source.index(shard["subset"]).rows(shard["name"], index_schema(format_version).names)
    faults, _ = verification.check_shard(copy, shard, rows.to_pylist(), format_version)
    return faults
