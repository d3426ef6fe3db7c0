"""The hub as the upload and its proof see it: one dataset repository, patience with it, and its errors in a line.

The client retries some requests itself, others never (creating a repository, a commit without Xet). `Hub` retries every
step from outside, whatever the client did before, and turns whatever the client raises into an error with a remedy.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from conversion.errors import MMMRSError, OutputError, UsageError
from mmm_rs_reading.retries import is_offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

TRIES = 5
WAITS = (1.0, 4.0, 16.0, 30.0)  # seconds before each further try, where the hub does not say how long
PATIENCE = 60.0  # seconds for an answer to one request
LONGEST_WAIT = 330.0  # seconds; the hub counts requests in windows of 5 minutes
PASSING = frozenset((408, 409, 412, 425, 429, 500, 502, 503, 504))  # HTTP status codes that another try may not see
NETWORK = frozenset(("httpx", "httpcore", "requests", "urllib", "hf_xet"))  # libraries, without a version's digits

AGAIN = "Run the same command again: what is on the hub is not sent again"
BLOCK = 1 << 20  # bytes


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

    def is_(self, file: LocalFile) -> bool:
        same = self.sha256 == file.sha256 if self.sha256 else self.blob_id == file.blob_id
        return same and self.size == file.size


def holds(there: Mapping[str, RemoteFile], file: LocalFile) -> bool:
    """Whether the hub has this file as it is here."""
    return file.path in there and there[file.path].is_(file)


def shard_file(shard: Mapping[str, Any]) -> LocalFile:
    """A shard as the manifest has it, which need not be read again: it was verified."""
    return LocalFile(shard["name"], shard["bytes"], shard["sha256"], "")


def local_file(out: Path, path: Path) -> LocalFile:
    """A file of the folder `out` with its checksums.

    Raises OutputError where it is missing or cannot be read.
    """
    name = path.relative_to(out).as_posix()
    try:
        length = path.stat().st_size
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


def default_api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mmm-rs")


@dataclass(frozen=True)
class Hub:
    """One revision of a dataset repository: all traffic goes through here."""

    repo_id: str
    revision: str
    api: Any
    say: Callable[[str], None]
    again: str = AGAIN  # the remedy that ends every line about a failure

    def at(self, revision: str) -> Hub:
        """The same repository at another revision."""
        return replace(self, revision=revision)

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

    def is_private(self) -> bool | None:
        """Whether the repository is private, whatever its revisions; None where there is none."""
        from huggingface_hub.utils import RepositoryNotFoundError

        def ask() -> bool | None:
            try:
                return bool(self.api.repo_info(self.repo_id, repo_type="dataset").private)
            except RepositoryNotFoundError:
                return None

        return self._patiently(ask, "asking for the repository")

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
        self._patiently(
            lambda: self.api.create_repo(self.repo_id, repo_type="dataset", private=private, exist_ok=True),
            "making the repository",
        )
        if self.revision != "main":
            self._patiently(
                lambda: self.api.create_branch(self.repo_id, branch=self.revision, repo_type="dataset", exist_ok=True),
                f"making the branch {self.revision}",
            )

    def store(self, out: Path, file: LocalFile) -> Any:
        """Send a file of the folder `out` to the hub's storage; returns what `send` needs to commit it.

        The folder need not hold it any more. Until it is committed, no listing has it. Bytes that the storage has
        already are not sent. One file at a time, because a signal does not end the threads that send several by LFS.
        """
        from huggingface_hub import CommitOperationAdd

        def try_once() -> Any:
            operation = CommitOperationAdd(file.path, out / file.path)
            self.api.preupload_lfs_files(self.repo_id, [operation], repo_type="dataset", revision=self.revision)
            if operation.path_or_fileobj != b"":  # the client empties what it has sent
                raise OutputError(
                    f"{self.repo_id}: {file.path}: the hub would keep it as a text. Mend what its "
                    f".gitattributes says of .tar files. {self.again}"
                )
            return operation

        return self._patiently(try_once, f"sending {file.path}")

    def send(
        self,
        out: Path,
        files: Sequence[LocalFile],
        message: str,
        stale: Sequence[str] = (),
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit `files` of the folder `out` and remove `stale`. `stored`: what `store` returned of those sent before.

        After a failed attempt the hub is asked first what of it is there: one whose answer was lost may have landed.
        """
        first = True

        def try_once() -> None:
            nonlocal first
            left, gone = list(files), list(stale)
            if not first:
                there = self.listing() or {}
                left, gone = (
                    [file for file in files if not holds(there, file)],
                    [path for path in stale if path in there],
                )
            first = False
            if gone or (left and stored):
                self._commit(out, left, gone, message, stored or {})
            elif left:  # with Xet this goes on where an attempt broke off
                self.api.upload_folder(
                    repo_id=self.repo_id,
                    repo_type="dataset",
                    revision=self.revision,
                    folder_path=out,
                    allow_patterns=[glob.escape(file.path) for file in left],
                    commit_message=message,
                )

        self._patiently(try_once, f"sending {message}")

    def _commit(
        self, out: Path, files: Sequence[LocalFile], stale: Sequence[str], message: str, stored: Mapping[str, Any]
    ) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [
            *(stored.get(file.path) or CommitOperationAdd(file.path, out / file.path) for file in files),
            *(CommitOperationDelete(path) for path in stale),
        ]
        self.api.create_commit(
            self.repo_id, operations, repo_type="dataset", revision=self.revision, commit_message=message
        )

    def tag(self, tag: str, commit: str) -> None:
        """Name a commit. A tag that is there and means another commit is not moved."""

        def make() -> None:
            self.api.create_tag(self.repo_id, tag=tag, revision=commit, repo_type="dataset", exist_ok=True)

        self._patiently(make, f"making the tag {tag}")
        tagged = self.at(tag).info().sha
        if tagged != commit:
            raise UsageError(
                f"{self.repo_id}: the tag {tag} is there already and means commit {tagged}, not {commit}. "
                "Choose another"
            )

    def download(self, folder: Path, paths: Sequence[str]) -> None:
        """Download files of the revision to `folder`, under their own paths."""
        for path in paths:
            fetch = functools.partial(
                self.api.hf_hub_download,
                self.repo_id,
                path,
                repo_type="dataset",
                revision=self.revision,
                local_dir=folder,
            )
            self._patiently(fetch, f"downloading {path}")

    def read(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes of a file of the revision, from `offset`."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.repo_id, path, repo_type="dataset", revision=self.revision, endpoint=self.api.endpoint)
        headers = {**build_hf_headers(token=self.api.token), "Range": f"bytes={offset}-{offset + length - 1}"}

        def ask() -> bytes:  # one request, where the client's file system makes several
            answer = get_session().get(url, headers=headers, timeout=PATIENCE)
            hf_raise_for_status(answer)
            if len(answer.content) != length:  # a server between here and there that sends whole files
                raise OutputError(
                    f"{self.repo_id}: {path}: {len(answer.content):,} bytes came where {length:,} were "
                    f"asked for. Check HF_ENDPOINT and the proxy. {self.again}"
                )
            return answer.content

        return self._patiently(ask, f"reading from {path}")

    def _patiently(self, do: Callable[[], T], what: str) -> T:
        """Do it, again after a while where the trouble may pass. Raises what `explain` makes of the client's error."""
        for attempt in range(TRIES):
            try:
                return do()
            except MMMRSError:
                raise
            except Exception as error:  # the client raises errors of its own, its HTTP library's and Xet's
                if attempt == TRIES - 1 or not may_pass(error):
                    raise explain(error, f"{self.repo_id}: {what}", self.again) from error
                wait = wait_before(error, attempt)
                self.say(f"{what} failed ({short(error)}); trying again in {wait:.0f} s")
                time.sleep(wait)
        raise AssertionError("unreachable")


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
    if is_offline(error):
        return False
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


def explain(error: BaseException, what: str, again: str) -> MMMRSError:
    """One line for a person: what failed, why, and what to do."""
    from huggingface_hub.utils import HFValidationError, RevisionNotFoundError

    status = status_of(error)
    failed = f"{what} failed: {short(error)}"
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
        return OutputError(f"{failed}. {remedies[status]}. {again}")
    if status is not None and status >= 500:
        return OutputError(f"{failed}. The hub has trouble of its own; see status.huggingface.co, and wait. {again}")
    if is_offline(error):  # its own text names the remedy
        return OutputError(f"{failed}. {again}")
    if may_pass(error):
        return OutputError(f"{failed}. The hub cannot be reached: check the network and HF_ENDPOINT. {again}")
    return OutputError(f"{failed}. {again}; if that does not help, update huggingface_hub")


def short(error: BaseException) -> str:
    """The error on one line, without a full stop; the client's own can be a page."""
    status = status_of(error)
    line = " ".join((getattr(error, "server_message", None) or str(error) or type(error).__name__).split())
    line = (line if len(line) <= 200 else line[:197] + "...").rstrip(".")
    return f"HTTP {status}, {line}" if status is not None and str(status) not in line else line
