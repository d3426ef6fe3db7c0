"""Proof that a copy on the hub is what was converted: of an upload against the folder, of any copy against itself.

The hub tells the size and checksum of each file without sending it (sha256 of what LFS or Xet keeps, git's own of small
text). That the shards are the manifest's follows from these; what the small files say of them is read.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from conversion import layout, verification
from conversion.display import first_of, size
from conversion.errors import MMMRSError, UsageError, VerificationError
from dataset_card import card, croissant
from mmm_rs import MODALITIES
from mmm_rs_hub.client import AGAIN, Hub, LocalFile, RemoteFile, default_api, holds, local_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from dataset_card.statistics import Converted

FOLDERS = tuple(f"{folder}/" for folder in layout.FOLDERS)  # the conversion's alone
READ = tuple(
    f"{folder}/" for folder in (layout.DATA, layout.INDEX, layout.REPORT)
)  # those of which the manifest tells every file


@dataclass(frozen=True)
class Proof:
    """What was compared on the hub and found equal."""

    repo_id: str
    revision: str  # the commit
    files: int
    shards: int
    samples: int
    bytes: int
    sent: int = 0  # files that this run sent
    read: int = 0  # shards that were downloaded and read

    @property
    def url(self) -> str:
        return f"hf://datasets/{self.repo_id}@{self.revision}"

    def lines(self) -> list[str]:
        found = f"{self.files:,} files, {size(self.bytes)}, have the size and checksum that they should have"
        counted = f"{self.shards:,} shards with {self.samples:,} samples, as the manifest says"
        return [self.url, found, counted + (f"; {self.read:,} downloaded and read" if self.read else "")]


def prove(hub: Hub, made: dict[str, Any], files: Sequence[LocalFile], sent: int) -> Proof:
    """Compare the hub with the folder and the manifest. Raises VerificationError with what differs."""
    commit = hub.info().sha
    there = hub.at(commit).listing() or {}
    faults = [_difference(file.path, file.size, file.sha256, there) for file in files if not holds(there, file)]
    faults += [fault for shard in made["shards"] if (fault := shard_fault(shard, there))]
    faults += [
        f"{path}: is on the hub, but is not the manifest's"
        for path in stale_files(there, {file.path for file in files})
    ]
    if faults:
        raise VerificationError(f"{hub.repo_id}: the hub's copy is not this folder's. {AGAIN}\n{first_of(faults)}")
    total = sum(file.size for file in files)
    samples = sum(shard["samples"] for shard in made["shards"])
    return Proof(hub.repo_id, commit, len(files), len(made["shards"]), samples, total, sent)


def shard_fault(shard: dict[str, Any], there: dict[str, RemoteFile]) -> str | None:
    """How a shard on the hub differs from the manifest; None where it does not."""
    found = there.get(shard["name"])
    if found and (found.size, found.sha256) == (shard["bytes"], shard["sha256"]):
        return None
    return _difference(shard["name"], shard["bytes"], shard["sha256"], there)


def _difference(path: str, length: int, sha256: str, there: dict[str, RemoteFile]) -> str:
    found = there.get(path)
    if found is None:
        return f"{path}: is not on the hub"
    if found.size != length:
        return f"{path}: {found.size:,} bytes on the hub, {length:,} expected"
    if found.sha256:
        return f"{path}: sha256 {found.sha256} on the hub, {sha256} expected"
    return f"{path}: another text of the same length on the hub"


def stale_files(there: Iterable[str], ours: Collection[str]) -> list[str]:
    """Paths on the hub in folders that are the conversion's alone, which it does not have: an earlier one's shards."""
    return sorted(path for path in there if path.startswith(FOLDERS) and path not in ours)


def verify_hub(
    url: str,
    deep: bool = False,
    *,
    say: Callable[[str], None] = lambda line: None,
    api: HfApi | None = None,
) -> Proof:
    """Prove a copy on the hub, `hf://datasets/org/name[@revision]`, by its own manifest, without downloading shards.

    The manifest, card, index and report are downloaded and must agree; every shard's size and sha256 on the hub must be
    the manifest's. `deep` downloads each shard as well, one at a time, and reads every member.

    Raises UsageError for another URL, OutputError where the hub cannot be reached, VerificationError with what differs.
    """
    repo_id, revision = parse_url(url)
    named = Hub(repo_id, revision, api or default_api(), say, again="Run the same command again")
    commit = named.info().sha
    hub = named.at(commit)  # whatever is pushed meanwhile
    there = hub.listing() or {}
    with tempfile.TemporaryDirectory(prefix="mmm-rs-verify-") as folder:
        copy = Path(folder)
        small = [
            path
            for path in there
            if path in (layout.CARD, layout.MANIFEST, layout.CROISSANT)
            or path.startswith((f"{layout.INDEX}/", f"{layout.REPORT}/"))
        ]
        if layout.MANIFEST not in small:
            raise VerificationError(f"{url}: no {layout.MANIFEST} there. Finish its upload, or it is another dataset")
        hub.download(copy, small)
        try:
            faults, made = check_copy(copy, there)
        except MMMRSError as error:
            raise VerificationError(str(error).replace(f"{copy}", url)) from None
        read = 0
        for shard in made["shards"] if deep and not faults else ():
            hub.download(copy, [shard["name"]])
            faults += [fault.replace(f"{copy}/", "") for fault in _read_shard(copy, shard)]
            (copy / shard["name"]).unlink(missing_ok=True)
            read += 1
            say(f"{shard['name']}: read")
    if faults:
        raise VerificationError(f"{url}: is not what its manifest says. Upload it again\n{first_of(faults)}")
    samples = sum(shard["samples"] for shard in made["shards"])
    checked = [*small, *(shard["name"] for shard in made["shards"])]
    total = sum(there[path].size for path in checked)
    return Proof(repo_id, commit, len(checked), len(made["shards"]), samples, total, read=read)


def parse_url(url: str) -> tuple[str, str]:
    """(repository, revision) of `hf://datasets/org/name[@revision]`. Raises UsageError for anything else."""
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^@]+?))?/?", url)
    if not match:
        raise UsageError(f"{url}: is no address of a dataset. Give hf://datasets/org/name or ...@revision")
    return match[1], unquote(match[2] or "main")


def check_copy(copy: Path, there: dict[str, RemoteFile]) -> tuple[list[str], dict[str, Any]]:
    """Faults of a hub copy of which `copy` has the small files, and its manifest."""
    from dataset_card.statistics import read_converted, rows_by_shard

    faults = []
    for path in sorted(copy.rglob("*")):
        name = path.relative_to(copy).as_posix()
        if path.is_file() and name in there and not there[name].is_(local_file(copy, path)):
            faults.append(f"{name}: what was downloaded is not what the hub lists")
    converted = read_converted(copy)
    made = converted.manifest
    names = {shard["name"] for shard in made["shards"]} | {layout.index_name(subset) for subset in made["subsets"]}
    names |= {layout.SUMMARY, layout.UNPUBLISHED}
    faults += [fault for shard in made["shards"] if (fault := shard_fault(shard, there))]
    faults += [f"{path}: is not on the hub" for path in sorted(names - there.keys())]
    faults += [f"{path}: is not the manifest's" for path in there if path.startswith(READ) and path not in names]
    unbalanced = [fault.replace(f"{copy}/", "") for fault in verification.balance(copy)]
    faults += unbalanced or _report(converted)
    rows = rows_by_shard(copy, converted.subsets)
    for shard in made["shards"]:
        if rows[shard["name"]] != shard["samples"]:
            faults.append(f"{shard['name']}: {rows[shard['name']]} rows of the index, {shard['samples']} samples said")
    faults += card.text_faults(_text(copy / layout.CARD), converted)
    if _text(copy / layout.CROISSANT) != croissant.render(converted):
        faults.append(f"{layout.CROISSANT}: is not what manifest and index say")
    return faults, made


def _report(converted: Converted) -> Iterator[str]:
    """Where a report that balances counts other images than the index."""
    for name, counted in converted.statistics.items():
        held = {m: sum(n for those, n in counted.together.items() if m in those) for m in MODALITIES}
        said = converted.summary["subsets"].get(name, {}).get("by_modality")
        if said != held:
            yield f"{layout.SUMMARY}: images of {name} by modality are {said}, the index has {held}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _read_shard(copy: Path, shard: dict[str, Any]) -> list[str]:
    import pyarrow.parquet as pq

    index = copy / layout.index_name(shard["subset"])
    rows = pq.read_table(index, filters=[("shard", "==", shard["name"])]).to_pylist()
    found, _ = verification.check_shard(copy, shard, rows)
    return found
