"""What a conversion wrote, read with `tarfile` and `pyarrow` alone, and what should be there by `tests.releases`."""

import hashlib
import tarfile
from pathlib import Path

import pyarrow.parquet as pq

from tests import releases


def tree(out: Path) -> dict[str, str]:
    """Every file of a folder with its sha256."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def members(out: Path) -> dict[str, bytes]:
    """Every member of every shard."""
    contents = {}
    for shard in sorted(out.glob("data/*/*.tar")):
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                assert member.name not in contents
                contents[member.name] = tar.extractfile(member).read()
    return contents


SUFFIX = {"rgb": "", "nir": ".nir", "sar": ".sar"}


def expected_members(subsets):
    expected = {}
    for (key, modality), (_, prompt, data) in releases.pairs(subsets).items():
        expected[f"{key}{SUFFIX[modality]}.jpg"] = data
        if prompt is not None:
            expected[f"{key}{SUFFIX[modality]}.txt"] = prompt.encode()
    return expected


def unpublished(out: Path) -> list[dict]:
    return pq.read_table(out / "report/unpublished.parquet").to_pylist()


def reasons(out: Path, kind: str = "image") -> dict[str, str]:
    """{last part of the path: reason} of what was not published."""
    return {row["path"].rsplit("/", 1)[-1]: row["reason"] for row in unpublished(out) if row["kind"] == kind}
