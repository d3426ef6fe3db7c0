"""One dataset repository on the hub: every request to it, retries, and errors in one line.

The client retries some requests itself and others never (creating a repository, a commit without Xet). `Hub` retries
every step from outside, whatever the client did before, and turns whatever the client raises into an error with a
remedy.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from conversion.errors import MMMRSError, OutputError, UsageError
from mmm_rs_hub.destination import MAIN, Destination
from mmm_rs_hub.files import LocalFile, RemoteFile, holds
from mmm_rs_hub.permissions import LOGIN, refusal
from mmm_rs_reading import retries
from mmm_rs_reading.retries import attempt

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

PATIENCE = 60.0  # seconds for the answer to one request
MOST_ENTRIES = 250_000  # files and folders in a repository; the hub takes 100,000 files
BUSY = frozenset((409, 412, 425))  # HTTP statuses of a repository that somebody else is changing
STOPPED = threading.Event()  # is never set: a signal ends a wait by its exception
NETWORK = frozenset(("httpx", "httpcore", "requests", "urllib", "hf_xet"))  # libraries, without a version's digits

AGAIN = "Run the same command again: files that are on the hub are not sent again"


def default_api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mmm-rs")


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Turns the client's own progress bars off: it draws some for each file, over whatever else is on the screen."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HF_HUB_DISABLE_PROGRESS_BARS=0 keeps the bars; the client warns of it
        disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def page(destination: Destination, api: HfApi) -> str:
    """The address of the repository's page, for a browser."""
    tree = "" if destination.revision == MAIN else f"/tree/{quote(destination.revision, safe='')}"
    return f"{api.endpoint}/datasets/{destination.repo_id}{tree}"


@dataclass(frozen=True)
class Hub:
    """One revision of a dataset repository: all traffic goes through here."""

    repo_id: str
    revision: str
    api: HfApi
    say: Callable[[str], None]
    again: str = AGAIN  # the remedy that ends every line about a failure

    @property
    def where(self) -> str:
        return f"{self.repo_id} at {self.revision}"

    def with_revision(self, revision: str) -> Hub:
        """The same repository at another revision."""
        return replace(self, revision=revision)

    def refusal(self) -> str | None:
        """Why nothing can be sent: there is no token, or it may not write here. None if it may, as far as the hub says.

        Raises OutputError if the token is wrong, or the hub cannot be reached.
        """
        from huggingface_hub import get_token

        if not (self.api.token or get_token()):
            return f"there is no token for the hub. {LOGIN}, then run the same command again"
        reason = refusal(self._retried(self.api.whoami, "checking the token"), self.repo_id)
        return f"{self.repo_id}: {reason}. {self.again}" if reason else None

    def check_may_write(self) -> None:
        """Raises OutputError if nothing can be sent. To be called before anything is read: that can take hours."""
        if reason := self.refusal():
            raise OutputError(reason)

    def commit(self) -> str:
        """The commit that the revision names."""
        return self._retried(
            lambda: str(self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision).sha),
            "asking for the repository",
        )

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if the hub knows no such repository."""
        from huggingface_hub.utils import RepositoryNotFoundError

        def ask() -> bool | None:
            try:
                return bool(self.api.repo_info(self.repo_id, repo_type="dataset").private)
            except RepositoryNotFoundError:
                return None

        return self._retried(ask, "asking for the repository")

    def listing(self) -> dict[str, RemoteFile]:
        """The files of the revision by path."""
        return self._retried(self._list, "listing its files")

    def existing(self) -> dict[str, RemoteFile] | None:
        """The files of the revision by path; None if there is no such repository or revision."""
        from huggingface_hub.utils import RepositoryNotFoundError, RevisionNotFoundError

        def ask() -> dict[str, RemoteFile] | None:
            try:
                return self._list()
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None

        return self._retried(ask, "listing its files")

    def _list(self) -> dict[str, RemoteFile]:
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils import EntryNotFoundError

        tree = self.api.list_repo_tree(self.repo_id, recursive=True, repo_type="dataset", revision=self.revision)
        try:
            entries = list(itertools.islice(tree, MOST_ENTRIES + 1))
        except EntryNotFoundError:  # a repository without files
            return {}
        if len(entries) > MOST_ENTRIES:
            raise OutputError(
                f"{self.where}: lists more than {MOST_ENTRIES:,} files and folders; a dataset has fewer. Check the "
                "name and HF_ENDPOINT"
            )
        return {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def create(self, private: bool) -> None:
        """Create the repository and the branch if they do not exist."""
        self._retried(
            lambda: self.api.create_repo(self.repo_id, repo_type="dataset", private=private, exist_ok=True),
            "creating the repository",
        )
        if self.revision != MAIN:
            self._retried(
                lambda: self.api.create_branch(self.repo_id, branch=self.revision, repo_type="dataset", exist_ok=True),
                f"creating the branch {self.revision}",
            )

    def store(self, out: Path, files: Sequence[LocalFile]) -> dict[str, Any]:
        """Send files of the folder `out` to the hub's storage; returns by path what commits them with `send`.

        After that the folder may drop the files. No listing has them until they are committed. Bytes that the storage
        already has are not sent.
        """
        from huggingface_hub import CommitOperationAdd

        def try_once() -> dict[str, Any]:
            operations = {file.path: CommitOperationAdd(file.path, out / file.path) for file in files}
            additions = list(operations.values())
            self.api.preupload_lfs_files(self.repo_id, additions, repo_type="dataset", revision=self.revision)
            for path, operation in operations.items():
                if operation.path_or_fileobj != b"":  # the client empties what it has sent
                    raise OutputError(
                        f"{self.repo_id}: {path}: the hub would store it as text. Fix what the repository's "
                        f".gitattributes says of .tar files. {self.again}"
                    )
            return operations

        more = f" to {files[-1].path}" if len(files) > 1 else ""
        return self._retried(try_once, f"sending {files[0].path}{more}")

    def send(
        self,
        out: Path,
        files: Sequence[LocalFile],
        message: str,
        stale: Sequence[str] = (),
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit `files` of the folder `out` and remove `stale`. `stored`: what `store` returned for files it has sent.

        After a failed attempt the hub is listed first: a commit whose answer was lost may have landed.
        """
        first = True

        def try_once() -> None:
            nonlocal first
            left, gone = list(files), list(stale)
            if not first:
                listing = self.listing()
                left = [file for file in files if not holds(listing, file)]
                gone = [path for path in stale if path in listing]
            first = False
            if gone or (left and stored):
                self._commit(out, left, gone, message, stored or {})
            elif left:  # with Xet this resumes where an attempt broke off
                self.api.upload_folder(
                    repo_id=self.repo_id,
                    repo_type="dataset",
                    revision=self.revision,
                    folder_path=out,
                    allow_patterns=[glob.escape(file.path) for file in left],
                    commit_message=message,
                )

        self._retried(try_once, f"sending {message}")

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
        """Tag a commit. Raises UsageError if the tag exists and names another commit: it is not moved."""

        def create() -> None:
            self.api.create_tag(self.repo_id, tag=tag, revision=commit, repo_type="dataset", exist_ok=True)

        self._retried(create, f"creating the tag {tag}")
        tagged = self.with_revision(tag).commit()
        if tagged != commit:
            raise UsageError(
                f"{self.repo_id}: the tag {tag} already exists and names commit {tagged}, not {commit}. Choose "
                "another tag"
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
            self._retried(fetch, f"downloading {path}")

    def read(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes of a file of the revision, from `offset`."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.repo_id, path, repo_type="dataset", revision=self.revision, endpoint=self.api.endpoint)
        headers = {
            **build_hf_headers(token=self.api.token),
            "Range": f"bytes={offset}-{offset + length - 1}",
            "Accept-Encoding": "identity",  # so that the length of the answer is the number of bytes
        }

        def ask() -> bytes:  # one request; the client's file system makes several
            session: Any = get_session()  # httpx's or, before version 1.0 of the client, requests'
            if callable(session.stream):
                opened = session.stream("GET", url, headers=headers, timeout=PATIENCE)
            else:
                opened = session.get(url, headers=headers, timeout=PATIENCE, stream=True)
            with opened as answer:
                if answer.status_code >= 400 and hasattr(answer, "read"):
                    answer.read()  # what the hub says of it
                hf_raise_for_status(answer)
                announced = answer.headers.get("Content-Length", "")
                if answer.status_code != 206 or announced != str(length):  # a proxy that sends whole files
                    raise OutputError(
                        f"{self.repo_id}: {path}: {length:,} bytes were requested, the answer has "
                        f"{announced or 'no length'} with status {answer.status_code}. Check HF_ENDPOINT and the "
                        f"proxy. {self.again}"
                    )
                return answer.read() if hasattr(answer, "read") else answer.content

        return self._retried(ask, f"reading from {path}")

    def _retried(self, do: Callable[[], T], what: str) -> T:
        """The result of `do`, tried again if the error may be transient.

        Raises what `explain` makes of the client's error.
        """

        def announce(error: Exception, tries: int, pause: float) -> None:
            self.say(f"{what} failed ({short(error)}); trying again in {pause:.2g} s")

        try:
            return attempt(do, is_transient, announce, stopped=STOPPED)
        except MMMRSError:
            raise
        except Exception as error:  # the client raises errors of its own, its HTTP library's and Xet's
            raise explain(error, f"{self.repo_id}: {what}", self.again) from error


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error; None if no answer came. The client hides some in the cause of another error."""
    while error is not None:
        status = retries.status_of(error)
        if status is None and (text := re.search(r"HTTP status \w+ error \((\d{3}) ", str(error))):  # Xet's
            status = int(text[1])
        if status is not None:
            return status
        error = error.__cause__
    return None


def is_transient(error: BaseException) -> bool:
    """Whether another try may succeed: the server or the network failed, not the request."""
    if isinstance(error, MMMRSError) or retries.is_offline(error):
        return False
    status = status_of(error)
    if status is not None:
        return retries.is_passing_status(status) or status in BUSY
    library = type(error).__module__.split(".")[0].rstrip("0123456789")
    if library in NETWORK or isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return type(error) is RuntimeError  # Xet raises it for everything


def explain(error: BaseException, what: str, again: str) -> MMMRSError:
    """One line for a person: what failed, why, and what to do."""
    from huggingface_hub.utils import HFValidationError, RevisionNotFoundError

    status = status_of(error)
    failed = f"{what} failed: {short(error)}"
    if isinstance(error, HFValidationError):
        return UsageError(f"{failed}. Correct the name")
    if isinstance(error, RevisionNotFoundError):
        return OutputError(f"{failed}. Give a branch, tag or commit that exists")
    remedies = {
        401: f"The token is missing, wrong or expired. {LOGIN}",
        403: "The token may not do this. Use a token with write access to this organisation and repository",
        404: "No such repository or organisation, or it is private. Check the name, and that the token may see it",
        409: "Somebody else is changing the repository. Wait until they have finished",
        412: "Somebody else is changing the repository. Wait until they have finished",
        413: "The hub refuses files of this size. Convert with a smaller --shard-size",
        429: "The hub asks for a pause: too many requests. Wait five minutes",
    }
    if status in remedies:
        return OutputError(f"{failed}. {remedies[status]}. {again}")
    if status is not None and status >= 500:
        return OutputError(f"{failed}. The hub has a problem; see status.huggingface.co, and wait. {again}")
    if isinstance(error, OSError) and error.strerror and status is None and not is_transient(error):
        return OutputError(f"{what} failed: {error.filename or 'this machine'}: {error.strerror}. Fix it. {again}")
    if retries.is_offline(error):  # its own text names the remedy
        return OutputError(f"{failed}. {again}")
    if is_transient(error):
        return OutputError(f"{failed}. The hub cannot be reached: check the network and HF_ENDPOINT. {again}")
    return OutputError(f"{failed}. {again}; if that does not help, update huggingface_hub")


def short(error: BaseException) -> str:
    """The error on one line, without its full stop; the client's own text can be a page."""
    status = status_of(error)
    line = " ".join((getattr(error, "server_message", None) or str(error) or type(error).__name__).split())
    line = (line if len(line) <= 200 else line[:197] + "...").rstrip(".")
    return f"HTTP {status}, {line}" if status is not None and str(status) not in line else line
