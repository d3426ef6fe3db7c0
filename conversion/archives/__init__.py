"""One reader for a zip, a zip within a zip and a folder.

How it works:
- `read_entries` reads a zip's central directory (never its data) into a table, one row per file. Fixed fields become
  numpy columns and names one Arrow buffer, so a million entries cost a second and no Python object each.
- What the directory alone shows to be unusable keeps its row and gets a `problem`, so that nothing is lost silently.
- `Reader` reads one entry with one system call and returns it only if header, length and CRC32 agree with the
  directory.
- A zip of more than 4 GiB without zip64, as macOS writes it, states offsets modulo 2**32: `wrapped` finds the real
  ones.
- A zip stored in a zip is read in place. A deflated one is inflated forward, without a file, for its directory and for
  streams; `extracted` inflates it once to a file for reads in any order.

Formats: PKWARE's APPNOTE.TXT 6.3.10 (zip, zip64), Info-ZIP's extrafld.txt (Unicode path, 0x7075), RFC 1951 (deflate).

Limits: only methods 0 (stored) and 8 (deflated); a directory of at most 512 MiB, or 192 MiB in a deflated inner zip; an
entry read whole is at most 256 MiB (streams have no limit).
"""

from conversion.archives.end import PART, UNFINISHED, one_part
from conversion.archives.entries import content_id, read_entries
from conversion.archives.inner import extracted, inner_archive
from conversion.archives.model import (
    DAMAGE,
    ENTRY_COLUMNS,
    METHODS,
    PROBLEMS,
    SCHEMA,
    Archive,
    ArchiveError,
    DamagedEntry,
    Entry,
    explain,
)
from conversion.archives.reader import Reader

__all__ = [
    "DAMAGE",
    "ENTRY_COLUMNS",
    "METHODS",
    "PART",
    "PROBLEMS",
    "SCHEMA",
    "UNFINISHED",
    "Archive",
    "ArchiveError",
    "DamagedEntry",
    "Entry",
    "Reader",
    "content_id",
    "explain",
    "extracted",
    "inner_archive",
    "one_part",
    "read_entries",
]
