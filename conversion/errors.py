"""What can go wrong, split by what the caller does next.

Every message names the file, says what is wrong and gives the remedy. The command line prints it as one line and ends
with `exit_code`:

| code | meaning |
|---|---|
| 0 | complete, everything published |
| 1 | a fault of the program itself |
| 2 | bad usage: correct the command |
| 3 | complete, but images or records were left out: read the report |
| 4 | the release cannot be used: download or repair what the message names |
| 5 | the output (folder, disk or hub) cannot be written: fix it, then run the same command again |
| 6 | verification failed |
| 130, 143 | interrupted (SIGINT, SIGTERM): run the same command again |
"""

from __future__ import annotations

from collections.abc import Sequence

from conversion.display import visible

REPORTED = 3  # exit code of a conversion that is complete but left something out


class MMMRSError(Exception):
    """Base of all errors that this project raises on purpose. Each argument is one line of the message."""

    exit_code = 1
    options: Sequence[str] = ()  # of the command line, that would remedy it

    @property
    def lines(self) -> list[str]:
        """The message for a person, as `display.visible` shows it."""
        return [visible(str(line)) for line in self.args]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class UsageError(MMMRSError):
    """The command or call is wrong: correct it. Example: options that differ from those of an existing output."""

    exit_code = 2


class ReleaseError(MMMRSError):
    """Something in the release cannot be read: download it again or repair it. Example: a truncated zip."""

    exit_code = 4


class OutputError(MMMRSError):
    """Something cannot be written: make room or fix permissions, then run the same command again."""

    exit_code = 5


class VerificationError(MMMRSError):
    """What is stored is not what the manifest, the index or the release says. Example: a flipped byte in a shard."""

    exit_code = 6
