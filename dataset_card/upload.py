"""Send a converted folder to the hub, and prove that what is there is what was converted.

How it works:

- The folder is checked first (finished, verified, within the hub's limits), so that nothing wrong is ever sent.
- What the hub holds is listed with sizes and checksums; only files that differ are sent. That listing is also how an
  interrupted upload goes on, and how a commit whose answer was lost is known to have landed: there is no state here.
- Shards go first, a group a commit, then index, report and pictures, then card and manifest in one last commit, which
  also removes shards of an earlier conversion. Until that commit the card on the hub describes what it did before.
- The listing is read once more and compared, file by file, with this folder and its manifest: the proof.

The client retries some requests itself, others never (creating a repository, a commit without Xet). `_patiently`
retries every step from outside, whatever the client did before.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from conversion import manifest
from conversion.errors import MMMRSError, OutputError, UsageError, VerificationError
from conversion.inspection import size
from dataset_card import card, croissant

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

# The hub's limits, https://huggingface.co/docs/hub/storage-limits
MOST_FILES = 100_000
MOST_ENTRIES = 10_000  # in a folder
LARGEST_FILE = 200 * 10**9  # bytes
GROUP = 90  # files a commit; the hub recommends fewer than 100

TRIES = 5
WAITS = (1.0, 4.0, 16.0, 30.0)  # seconds before each further try, where the hub does not say how long
LONGEST_WAIT = 330.0  # seconds; the hub counts requests in windows of 5 minutes
PASSING = frozenset((408, 409, 412, 425, 429, 500, 502, 503, 504))  # HTTP status codes that another try may not see
NETWORK = frozenset(("httpx", "httpcore", "requests", "urllib", "hf_xet"))  # libraries, without a version's digits

FOLDERS = ("data", "index", "report", "assets")  # ours alone: whatever else lies there on the hub is removed
LAST = (card.NAME, manifest.NAME)
AGAIN = "Run the same command again: what is on the hub is not sent again"
BLOCK = 1 << 20  # bytes
NAMED = 20  # faults shown at the most


@dataclass(frozen=True)
class LocalFile:
    """A file to be sent. `blob_id` is git's own checksum, which the hub gives of small text files."""

    path: str
    size: int
    sha256: str
    blob_id: str


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub; of `sha256` and `blob_id` the one that tells its content is there."""

    size: int
    sha256: str | None
    blob_id: str | None

    def holds(self, file: LocalFile) -> bool:
        same = self.sha256 == file.sha256 if self.sha256 else self.blob_id == file.blob_id
        return same and self.size == file.size


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


def upload(
    out: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    tag: str | None = None,
    yes: bool = False,
    say: Callable[[str], None] = print,
    ask: Callable[[str], bool] | None = None,
    api: HfApi | None = None,
) -> Proof | None:
    """Send the converted folder `out` to the dataset repository `repo_id` and prove it. None for `dry_run`.

    `revision`: the branch, made if it is not there (default: main). `tag`: name the proved commit. `dry_run`: say what
    would be sent, and change nothing. `yes`: do not ask. `say` is told each step in a line; `ask` answers a question.

    Raises UsageError (name, options, refusal), OutputError (the hub or the way to it) and VerificationError (the folder
    is not what its manifest says, or the hub's copy is not the folder).
    """
    out = Path(out)
    check_name(repo_id)
    made = check_folder(out, say)
    if not dry_run and card.repository(_text(out / card.NAME)) != repo_id:
        card.write_card(out, repo_id)  # its examples name the repository
    files = local_files(out, made)
    check_limits(files)
    hub = _Hub(repo_id, revision or "main", api or _api(), say)
    if not dry_run:
        hub.check_login()
    there = hub.listing(missing_ok=True)
    if private and there is not None and not hub.info().private:
        raise UsageError(
            f"{repo_id}: is public already. Change that in its settings on the hub, or leave out --private"
        )
    missing = [file for file in files if there is None or not _holds(there, file)]
    stale = stale_files(there or {}, files)
    _say_plan(hub, files, missing, stale, there is None, private, say)
    if dry_run:
        return None
    if (missing or stale) and not yes and not (ask or _ask)("Go on?"):
        raise UsageError("nothing was sent")
    if there is None:
        hub.create(private)
    hub.send(out, missing, stale)
    proof = prove(hub, made, files, len(missing))
    if tag:
        hub.tag(tag, proof.revision)
    for line in proof.lines():
        say(line)
    return proof


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
    hub = _Hub(repo_id, revision, api or _api(), say)
    commit = hub.info().sha
    hub = _Hub(repo_id, commit, hub.api, say)
    there = hub.listing()
    assert there is not None
    with tempfile.TemporaryDirectory(prefix="mmm-rs-verify-") as folder:
        copy = Path(folder)
        small = [path for path in there if path in (*LAST, croissant.NAME) or path.startswith(("index/", "report/"))]
        if manifest.NAME not in small:
            raise VerificationError(f"{url}: no {manifest.NAME} there. Finish its upload, or it is another dataset")
        hub.download(copy, small)
        try:
            faults, made = _check_copy(copy, there)
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
        raise VerificationError(f"{url}: is not what its manifest says. Upload it again\n{_first(faults)}")
    samples = sum(shard["samples"] for shard in made["shards"])
    checked = [*small, *(shard["name"] for shard in made["shards"])]
    total = sum(there[path].size for path in checked)
    return Proof(repo_id, commit, len(checked), len(made["shards"]), samples, total, read=read)


def _first(faults: Sequence[str]) -> str:
    """Some of many faults, one a line."""
    shown = list(dict.fromkeys(faults))
    return "\n".join(shown[:NAMED]) + (f"\n... and {len(shown) - NAMED} more" if len(shown) > NAMED else "")


def parse_url(url: str) -> tuple[str, str]:
    """(repository, revision) of `hf://datasets/org/name[@revision]`. Raises UsageError for anything else."""
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^@]+?))?/?", url)
    if not match:
        raise UsageError(f"{url}: is no address of a dataset. Give hf://datasets/org/name or ...@revision")
    return match[1], unquote(match[2] or "main")


def check_name(repo_id: str) -> None:
    """Raises UsageError for a name that the hub or `datasets` would refuse."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id}: is no name of a repository. Give it as org/MMM-RS")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id}: {_short(error)}. Give it as org/MMM-RS") from None
    if repo_id.split("/")[1] == "mmm_rs":
        raise UsageError(
            f"{repo_id}: a repository called mmm_rs that holds mmm_rs.py is taken for a loading script, which no "
            "`datasets` since 4.0 loads. Call it otherwise, MMM-RS for example"
        )


def check_folder(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The manifest of a folder that is finished and right; see `conversion.verification` for what is checked."""
    from conversion.job import WORK
    from conversion.verification import verify

    made = manifest.read(out)
    if made is None or (out / WORK / "options.json").exists():
        raise OutputError(f"{out}: its conversion is not finished. Run the same `mmm-rs convert` again, then upload")
    say(f"{out}: verifying {len(made['shards']):,} shards")
    verify(out)
    return made


def local_files(out: Path, made: dict[str, Any]) -> list[LocalFile]:
    """The files to be sent, by path."""
    from conversion.job import PRODUCTS

    paths: list[Path] = []
    for name in PRODUCTS:
        path = out / name
        paths += sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    shards = {shard["name"]: shard["sha256"] for shard in made["shards"]}
    return [_local_file(out, path, shards) for path in paths if not path.name.startswith(".")]


def _local_file(out: Path, path: Path, shards: dict[str, str]) -> LocalFile:
    name = path.relative_to(out).as_posix()
    try:
        length = path.stat().st_size
        if name in shards:  # has just been verified
            return LocalFile(name, length, shards[name], "")
        sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % length)
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                sha256.update(block)
                blob.update(block)
    except FileNotFoundError:
        raise OutputError(f"{path}: not found. Run `mmm-rs card {out}`, or convert again") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}. Mend it, then run again") from None
    return LocalFile(name, length, sha256.hexdigest(), blob.hexdigest())


def check_limits(files: Sequence[LocalFile]) -> None:
    """Raises UsageError where the hub would refuse the folder."""
    if len(files) >= MOST_FILES:
        raise UsageError(
            f"{len(files):,} files are more than the hub takes ({MOST_FILES:,}). Convert with a larger --shard-size"
        )
    entries = Counter(file.path.rpartition("/")[0] for file in files)
    folder, most = max(entries.items(), key=lambda item: item[1])
    if most > MOST_ENTRIES:
        raise UsageError(
            f"{folder}: {most:,} files are more than the hub takes in a folder ({MOST_ENTRIES:,}). "
            "Convert with a larger --shard-size"
        )
    for file in files:
        if file.size > LARGEST_FILE:
            raise UsageError(
                f"{file.path}: {size(file.size)} are more than the hub takes ({size(LARGEST_FILE)}). "
                "Convert with a smaller --shard-size"
            )


def stale_files(there: dict[str, RemoteFile], files: Iterable[LocalFile]) -> list[str]:
    """Files on the hub in folders that are ours, which this conversion does not have: an earlier one's shards."""
    ours = {file.path for file in files}
    return sorted(path for path in there if path.split("/")[0] in FOLDERS and "/" in path and path not in ours)


def prove(hub: _Hub, made: dict[str, Any], files: Sequence[LocalFile], sent: int) -> Proof:
    """Compare the hub with the folder and the manifest. Raises VerificationError with what differs."""
    commit = hub.info().sha
    there = _Hub(hub.repo_id, commit, hub.api, hub.say).listing()
    assert there is not None
    faults = [_difference(file.path, file.size, file.sha256, there) for file in files if not _holds(there, file)]
    faults += [fault for shard in made["shards"] if (fault := shard_fault(shard, there))]
    faults += [f"{path}: is on the hub, but is not the manifest's" for path in stale_files(there, files)]
    if faults:
        raise VerificationError(f"{hub.repo_id}: the hub's copy is not this folder's. {AGAIN}\n{_first(faults)}")
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


def _holds(there: dict[str, RemoteFile], file: LocalFile) -> bool:
    return file.path in there and there[file.path].holds(file)


def _check_copy(copy: Path, there: dict[str, RemoteFile]) -> tuple[list[str], dict[str, Any]]:
    """Faults of a hub copy of which `copy` has the small files, and its manifest."""
    from dataset_card.statistics import read_converted, rows_by_shard

    faults = []
    for path in sorted(copy.rglob("*")):
        name = path.relative_to(copy).as_posix()
        if path.is_file() and name in there and not there[name].holds(_local_file(copy, path, {})):
            faults.append(f"{name}: what was downloaded is not what the hub lists")
    converted = read_converted(copy)
    made = converted.manifest
    names = {shard["name"] for shard in made["shards"]}
    faults += [fault for shard in made["shards"] if (fault := shard_fault(shard, there))]
    faults += [
        f"{path}: is no shard of the manifest" for path in there if path.startswith("data/") and path not in names
    ]
    rows = rows_by_shard(copy, converted.subsets)
    for shard in made["shards"]:
        if rows[shard["name"]] != shard["samples"]:
            faults.append(f"{shard['name']}: {rows[shard['name']]} rows of the index, {shard['samples']} samples said")
    faults += card.faults(_text(copy / card.NAME), converted)
    if _text(copy / croissant.NAME) != croissant.render(converted):
        faults.append(f"{croissant.NAME}: is not what manifest and index say")
    return faults, made


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _read_shard(copy: Path, shard: dict[str, Any]) -> list[str]:
    import pyarrow.parquet as pq

    from conversion import verification

    index = copy / "index" / f"{shard['subset']}.parquet"
    rows = pq.read_table(index, filters=[("shard", "==", shard["name"])]).to_pylist()
    found, _ = verification.check_shard(copy, shard, rows)
    return found


def _say_plan(hub: _Hub, files: Sequence[LocalFile], missing: Sequence[LocalFile], stale: Sequence[str], new: bool,
              private: bool, say: Callable[[str], None]) -> None:  # fmt: skip
    where = f"{hub.repo_id} at {hub.revision}"
    if new:
        say(f"{where}: not there yet, will be made ({'private' if private else 'public'})")
    kept = len(files) - len(missing)
    say(f"{where}: {len(missing):,} of {len(files):,} files to send, {size(sum(file.size for file in missing))}"
        + (f"; {kept:,} are there already" if kept else ""))  # fmt: skip
    if stale:
        say(f"{where}: {len(stale):,} files of an earlier conversion to remove, for example {stale[0]}")


def _ask(question: str) -> bool:
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("nobody is there to answer. Give --yes to send without being asked")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mmm-rs")


@dataclass(frozen=True)
class _Hub:
    """One revision of a dataset repository: all traffic goes through here."""

    repo_id: str
    revision: str
    api: Any
    say: Callable[[str], None]

    def check_login(self) -> None:
        from huggingface_hub import get_token

        if not (self.api.token or get_token()):
            raise OutputError(
                "no token for the hub. Run `hf auth login`, or set HF_TOKEN to one that may write, then run again"
            )
        self._patiently(self.api.whoami, "asking who you are")

    def info(self) -> Any:
        """What the hub says of the repository at the revision: `sha`, its commit, `private` and more."""
        return self._patiently(
            lambda: self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision),
            "asking for the repository",
        )

    def listing(self, missing_ok: bool = False) -> dict[str, RemoteFile] | None:
        """Every file of the revision, by path; None where repository or revision is not there and that is no fault."""
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

        def ask() -> dict[str, RemoteFile] | None:
            try:
                entries = list(
                    self.api.list_repo_tree(self.repo_id, recursive=True, repo_type="dataset", revision=self.revision)
                )
            except EntryNotFoundError:  # a repository without a file
                return {}
            except (RepositoryNotFoundError, RevisionNotFoundError):
                if missing_ok:
                    return None
                raise
            return {
                entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in entries
                if isinstance(entry, RepoFile)
            }

        return self._patiently(ask, "listing its files")

    def create(self, private: bool) -> None:
        """Make repository and branch where they are not there."""
        self._patiently(lambda: self.api.create_repo(self.repo_id, repo_type="dataset", private=private, exist_ok=True),
                        "making the repository")  # fmt: skip
        if self.revision != "main":
            self._patiently(
                lambda: self.api.create_branch(self.repo_id, branch=self.revision, repo_type="dataset", exist_ok=True),
                f"making the branch {self.revision}",
            )

    def send(self, out: Path, missing: Sequence[LocalFile], stale: Sequence[str]) -> None:
        """Shards, then what describes them, then card and manifest together with the removal of stale files."""
        shards = [file for file in missing if file.path.startswith("data/")]
        rest = [file for file in missing if file not in shards and file.path not in LAST]
        groups = [part[at : at + GROUP] for part in (shards, rest) for at in range(0, len(part), GROUP)]
        for number, group in enumerate(groups, 1):
            self.say(f"sending group {number} of {len(groups)}: {group[0].path} to {group[-1].path}, "
                     f"{size(sum(file.size for file in group))}")  # fmt: skip
            self._send_group(out, group)
        last = [file for file in missing if file.path in LAST]
        if last or stale:
            self.say("sending card and manifest")
            self._send_last(out, last, stale)

    def _send_group(self, out: Path, group: Sequence[LocalFile]) -> None:
        first = True

        def try_once() -> None:
            nonlocal first
            left = group if first else self._not_there(group)  # an attempt whose answer was lost may have landed
            first = False
            if left:
                self.api.upload_folder(
                    repo_id=self.repo_id, repo_type="dataset", revision=self.revision, folder_path=out,
                    allow_patterns=[file.path for file in left], commit_message=_message(left),
                )  # fmt: skip

        self._patiently(try_once, f"sending {group[0].path} and those after it")

    def _send_last(self, out: Path, last: Sequence[LocalFile], stale: Sequence[str]) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        first = True

        def try_once() -> None:
            nonlocal first
            left, gone = list(last), list(stale)
            if not first:
                there = self.listing() or {}
                left, gone = (
                    [file for file in last if not _holds(there, file)],
                    [path for path in stale if path in there],
                )
            first = False
            operations = [
                *(CommitOperationAdd(file.path, out / file.path) for file in left),
                *(CommitOperationDelete(path) for path in gone),
            ]
            if operations:
                self.api.create_commit(self.repo_id, operations, repo_type="dataset", revision=self.revision,
                                       commit_message="Card and manifest")  # fmt: skip

        self._patiently(try_once, "sending card and manifest")

    def _not_there(self, files: Sequence[LocalFile]) -> list[LocalFile]:
        there = self.listing() or {}
        return [file for file in files if not _holds(there, file)]

    def tag(self, tag: str, commit: str) -> None:
        """Name a commit. A tag that is there and means another commit is not moved."""

        def make() -> None:
            self.api.create_tag(self.repo_id, tag=tag, revision=commit, repo_type="dataset", exist_ok=True)

        self._patiently(make, f"making the tag {tag}")
        tagged = _Hub(self.repo_id, tag, self.api, self.say).info().sha
        if tagged != commit:
            raise UsageError(
                f"{self.repo_id}: the tag {tag} is there already and means commit {tagged}, not {commit}. "
                "Choose another"
            )

    def download(self, folder: Path, paths: Sequence[str]) -> None:
        """Download files of the revision to `folder`, under their own paths."""
        for path in paths:
            fetch = functools.partial(self.api.hf_hub_download, self.repo_id, path, repo_type="dataset",
                                      revision=self.revision, local_dir=folder)  # fmt: skip
            self._patiently(fetch, f"downloading {path}")

    def _patiently(self, do: Callable[[], T], what: str) -> T:
        """Do it, again after a while where the trouble may pass. Raises what `explain` makes of the client's error."""
        for attempt in range(TRIES):
            try:
                return do()
            except MMMRSError:
                raise
            except Exception as error:  # the client raises errors of its own, its HTTP library's and Xet's
                if attempt == TRIES - 1 or not may_pass(error):
                    raise explain(error, self.repo_id, what) from error
                wait = wait_before(error, attempt)
                self.say(f"{what} failed ({_short(error)}); trying again in {wait:.0f} s")
                time.sleep(wait)
        raise AssertionError("unreachable")


def _message(files: Sequence[LocalFile]) -> str:
    subsets = dict.fromkeys(file.path.split("/")[1] for file in files if file.path.startswith("data/"))
    return f"Shards of {', '.join(subsets)}" if subsets else "Index, report and pictures"


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, None where no answer came. The client hides some in another error's cause."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None and (said := re.search(r"HTTP status \w+ error \((\d{3}) ", str(error))):  # Xet's words
            status = int(said[1])
        if status is not None:
            return status
        error = error.__cause__
    return None


def may_pass(error: BaseException) -> bool:
    """Whether another try may go well: the server or the way to it failed, not the request."""
    status = status_of(error)
    if status is not None:
        return status in PASSING
    library = type(error).__module__.split(".")[0].rstrip("0123456789")
    if library in NETWORK or isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return type(error) is RuntimeError  # what Xet raises, whatever happened


def wait_before(error: BaseException, attempt: int) -> float:
    """Seconds to wait: as long as the hub says, else longer each time."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return min(max(float(headers.get("Retry-After", "")), 0.0), LONGEST_WAIT)
    except ValueError:
        return WAITS[min(attempt, len(WAITS) - 1)]


def explain(error: BaseException, repo_id: str, what: str) -> MMMRSError:
    """One line for a person: what failed, why, and what to do."""
    from huggingface_hub.utils import HFValidationError, RevisionNotFoundError

    status = status_of(error)
    failed = f"{repo_id}: {what} failed: {_short(error)}"
    if isinstance(error, HFValidationError):
        return UsageError(f"{failed}. Correct the name")
    if isinstance(error, RevisionNotFoundError):
        return OutputError(f"{failed}. There is no such revision; give a branch, tag or commit that is there")
    remedies = {
        401: "The token is missing, wrong or expired. Run `hf auth login`, or set HF_TOKEN to one that may write",
        403: "The token may not do this. Use one with write access to this organisation and repository",
        404: "No such repository or organisation, or it is private. Check the name, and that the token may see it",
        409: "Somebody else is changing the repository. Wait until they are done",
        412: "Somebody else is changing the repository. Wait until they are done",
        413: "The hub refuses files of this size. Convert with a smaller --shard-size",
        429: "The hub asks for a pause: too many requests. Wait five minutes",
    }
    if status in remedies:
        return OutputError(f"{failed}. {remedies[status]}. {AGAIN}")
    if status is not None and status >= 500:
        return OutputError(f"{failed}. The hub has trouble of its own; see status.huggingface.co, and wait. {AGAIN}")
    if may_pass(error):
        return OutputError(f"{failed}. The hub cannot be reached: check the network and HF_ENDPOINT. {AGAIN}")
    return OutputError(f"{failed}. {AGAIN}; if that does not help, update huggingface_hub")


def _short(error: BaseException) -> str:
    """The error on one line, without a full stop; the client's own can be a page."""
    status = status_of(error)
    line = " ".join((getattr(error, "server_message", None) or str(error) or type(error).__name__).split())
    line = (line if len(line) <= 200 else line[:197] + "...").rstrip(".")
    return f"HTTP {status}, {line}" if status is not None and str(status) not in line else line
