"""What can be wrong with a release: the vocabulary of the report.

A *problem* concerns a whole source (an archive, an annotation file, a folder). What is *reported* is one image or one
record that is not published. Both carry a code from the tables below, which docs/format.md explains in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

IMAGE_REASONS = {
    # it has no counterpart, or claims what another image does
    "no_record": "no usable record names it",
    "same_place": "two images claim one place and modality",
    "same_name": "images with different content have one name",
    "duplicate_image": "an image of the same name and content is already published",
    "unknown_modality": "neither its name nor its folder tells the modality",
    "unknown_subset": "nothing in its path names one of the ten subsets",
    # its bytes in the archive or folder are damaged
    "crc_mismatch": "its CRC32 is not the one that the archive states",
    "truncated": "its bytes end early",
    "size_mismatch": "its size is not the one that the archive states, or not a possible one",
    "inflate_error": "its compressed bytes cannot be inflated",
    "bad_local_header": "there is no entry where the archive's directory says",
    "overlap": "its bytes reach into the next entry or out of the archive",
    "read_error": "the disk cannot read its bytes",
    "missing_file": "its file is gone",
    "too_large": "it is larger than an image can be",
    # its entry is not read
    "encrypted": "it is encrypted",
    "unsupported_compression": "it is compressed by a method that is not read",
    "unsupported_version": "it needs a later version of the zip format than 6.3",
    "bad_directory_entry": "its fields in the archive's directory contradict each other",
    "unsafe_name": "its name is absolute, leads outside, is empty, unreadable or too long, or holds a NUL",
    "link": "it is a symbolic link, which is not followed",
    "not_a_file": "it is a device, a pipe or a socket",
    "unreadable_folder": "it is a folder that may not be read",
    # it is not a whole image
    "empty": "it has no bytes",
    "not_an_image": "it is not an image of a known format",
    "too_many_scans": "it is a JPEG of more than 100 scans, which keeps decoders busy for minutes",
    "lfs_pointer": "it is a git-lfs pointer, which stands for a file that was not fetched",
    "no_end_marker": "it is a JPEG without an end marker: it was cut",
    "too_many_pixels": "it has more pixels than Pillow opens without a warning",
    "not_decodable": "it cannot be decoded",
    # of an export
    "damaged_sample": "another image of its sample is damaged in the dataset that was exported",
}
"""Why an image is not published: code -> meaning."""

RECORD_REASONS = {
    "no_images": "none of its subset's images is in the release",
    "no_image": "no image of the release fits its path",
    "ambiguous_path": "several images fit its path",
    "duplicate_record": "an earlier record names the same image with the same prompt",
    "conflicting_prompt": "an earlier record names the same image with another prompt, which counts",
    "image_rejected": "its image is damaged and not published",
    # it cannot be used as it stands
    "no_path": "it names no image",
    "no_prompt": "it has no prompt",
    "wrong_type": "its path or prompt is not text",
    "not_an_object": "it is not a JSON object",
    "invalid_text": "its text cannot be decoded",
    "invalid_json": "it is not valid JSON",
    "too_long": "it is longer than a record can be",
    "too_deep": "it is nested more deeply than a record can be",
}
"""Why a record is not used: code -> meaning."""

REASONS = IMAGE_REASONS | RECORD_REASONS

REMEDIES = {
    "no_record": "Check that all annotation files are there, or publish such images too with --keep-unprompted",
    "same_place": "Remove or rename one of the two images",
    "same_name": "Remove the copy that you do not want",
    "duplicate_image": "Nothing to do: its bytes are published once",
    "unknown_modality": "Put it into a folder that names its modality, for example NIR_jpg",
    "unknown_subset": "Put it into a folder named after its subset, for example GID_dataset",
    "crc_mismatch": "Download the archive again",
    "truncated": "Download the archive again",
    "size_mismatch": "Download the archive again",
    "inflate_error": "Download the archive again",
    "bad_local_header": "Download the archive again",
    "overlap": "Download the archive again",
    "read_error": "Copy the release to another disk",
    "missing_file": "Put the file back",
    "too_large": "Nothing to do: no image of the release is this large",
    "encrypted": "Unzip the archive with its password and give the folder instead",
    "unsupported_compression": "Unzip the archive with the program that made it and give the folder instead",
    "unsupported_version": "Unzip the archive with the program that made it and give the folder instead",
    "bad_directory_entry": "Download the archive again",
    "unsafe_name": "Unzip the archive, rename the file and give the folder instead",
    "link": "Replace the link with what it points to",
    "not_a_file": "Nothing to do: it is not an image",
    "unreadable_folder": "Give yourself the permission to read it",
    "empty": "If it was unzipped or copied, do that again; otherwise ask upstream",
    "not_an_image": "If it was unzipped or copied, do that again; otherwise ask upstream",
    "too_many_scans": "Save the image with fewer scans, for example with `jpegtran`",
    "lfs_pointer": "Run `git lfs pull` where the release was cloned",
    "no_end_marker": "If it was unzipped or copied, do that again; otherwise ask upstream",
    "too_many_pixels": "Nothing to do: readers of the dataset could not open it",
    "not_decodable": "If it was unzipped or copied, do that again; otherwise ask upstream",
    "no_images": "Download the images of this subset too",
    "damaged_sample": "Fetch the damaged shards again, then export again",
    "no_image": "See whether the report names its image; otherwise a part of the download may be missing",
    "ambiguous_path": "Give the whole path of the image in the annotation file",
    "duplicate_record": "Nothing to do: the prompt is published once",
    "conflicting_prompt": "Remove the record that you do not want",
    "image_rejected": "See the reason of its image",
    "no_path": "Name the key of the image path with --image-key",
    "no_prompt": "Name the key of the prompt with --prompt-key, if it has one",
    "wrong_type": "Name the right keys with --image-key and --prompt-key",
    "not_an_object": "Correct the annotation file, or ask upstream",
    "invalid_text": "Save the annotation file as UTF-8, or correct the damaged characters",
    "invalid_json": "Correct it in the annotation file; if the file was cut, download it again",
    "too_long": "Correct the annotation file, or ask upstream",
    "too_deep": "Correct the annotation file, or ask upstream",
}
"""What a person can do about it: code of an image or a record -> remedy."""

PROBLEMS = {
    "unreadable_archive": "the archive cannot be read",
    "lfs_pointer": "it is a git-lfs pointer, which stands for a file that was not fetched",
    "crc_mismatch": "the compressed archive's own CRC32 is wrong; its images are checked one by one",
    "encrypted": "files of the archive are encrypted",
    "unsupported_compression": "files of the archive are compressed by a method that is not read",
    "empty_archive": "the archive holds no files",
    "nothing_known": "the archive holds neither images nor annotations",
    "nested_too_deep": "the archive is nested in too many others",
    "other_archive": "this kind of archive is not supported",
    "half_download": "the download is not finished",
    "multi_part": "it is one part of a split archive",
    "link": "it is a symbolic link, which is not followed",
    "unreadable_folder": "the folder may not be read",
    "no_images": "the annotations of a subset are there, but none of its images",
    "no_annotations": "images of a subset are there, but none of its annotation files",
    "conflicting_images": "its images differ from images of the same names in another archive or folder",
    "beside_zip": "files are also extracted next to the zip that holds them; the zip counts",
    "same_name": "the annotation file has the name and the content of another",
    "annotation_copy": "its name says that the annotation file is a copy of another; only one of them is used",
    "unreadable_annotations": "none of the annotation file's records can be used",
}
"""Why a source is not used, or not as it stands: code -> meaning. An annotation file whose bytes cannot be read has one
of IMAGE_REASONS."""

DROPPED = frozenset(
    (
        "unreadable_archive",
        "lfs_pointer",
        "empty_archive",
        "nothing_known",
        "nested_too_deep",
        "other_archive",
        "half_download",
        "multi_part",
        "unreadable_folder",
        "no_images",
        "unreadable_annotations",
    )
)
"""The problems by which nothing of a source could be used."""


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the few bytes begin that `git clone` leaves in the place of a large file where git-lfs is not installed."""


@dataclass(frozen=True)
class Problem:
    """A source of the release that is not used, or not as it stands."""

    path: str
    code: str  # of PROBLEMS or IMAGE_REASONS
    detail: str
    remedy: str
    subset: str | None = None  # None where the name does not tell
    lines: Sequence[str] = ()  # more about it, for a person
    options: Sequence[str] = ()  # of the command line, that would remedy it

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}. {self.remedy}"

    @property
    def indented(self) -> list[str]:
        return [f"    {line}" for line in self.lines]


@dataclass(frozen=True)
class Reported:
    """A row of the report: an image or a record that is not published."""

    kind: str  # "image" or "record"
    path: str  # of the image within the subset, of the record's file
    position: int | None  # of a record in its file, from 0
    reason: str  # of REASONS
    detail: str


EXAMPLES = 5  # of what is wrong, in a message


def why_nothing_is_published(
    problems: Sequence[Problem], reasons: Mapping[str, Mapping[str, int]]
) -> tuple[list[str], Sequence[str]]:
    """Why none of the images of a release can be used: the lines of the message, and the options that may help.

    `reasons`: image or record -> code -> how many were left out.
    """
    lines = [line for problem in problems[:EXAMPLES] for line in (str(problem), *problem.indented)]
    options = next((problem.options for problem in problems if problem.options), ())
    if not options:  # which would explain all
        for kind, counts in reasons.items():
            for code, count in sorted(counts.items(), key=lambda item: -item[1])[:EXAMPLES]:
                lines.append(f"{count:,} {kind}{'s' * (count > 1)}, {code}: {REASONS[code]}. {REMEDIES[code]}")
    return lines, options


def count_reasons(rows: Iterable[Reported]) -> Counter[tuple[str, str]]:
    """(kind, reason) -> rows."""
    return Counter((row.kind, row.reason) for row in rows)
