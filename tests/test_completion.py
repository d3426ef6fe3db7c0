"""`mmm-rs completion`: what a shell completes once it has read the printed lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conversion import findings

ROOT = Path(__file__).parents[1]

# What bash does when a person presses Tab at the end of `line`.
PRESS_TAB = """
eval "$(mmm-rs completion bash)"
COMP_LINE={line!r} COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9 COMP_WORDS=({line}) COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
{function} mmm-rs "${{COMP_WORDS[$COMP_CWORD]}}" "${{COMP_WORDS[$COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with `mmm-rs` for the PATH."""
    folder = tmp_path_factory.mktemp("bin")
    tool = folder / "mmm-rs"
    tool.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec "{sys.executable}" -m mmm_rs_cli.cli "$@"\n')
    tool.chmod(0o755)
    return folder


def completed(place: Path, line: str) -> list[str]:
    """What bash offers for an unfinished line."""
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    shell = ["bash", "--norc", "-c"]
    defined = subprocess.run(
        [*shell, 'eval "$(mmm-rs completion bash)"; complete -p mmm-rs'],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
    ).stdout.split()
    function = defined[defined.index("-F") + 1]
    script = PRESS_TAB.format(line=line, function=function)
    ended = subprocess.run([*shell, script], env=environment, capture_output=True, text=True, check=True, cwd=place)
    return sorted(word.strip() for word in ended.stdout.splitlines() if word.strip())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mmm-rs con", ["convert"]),
        ("mmm-rs convert --over", ["--overwrite"]),
        ("mmm-rs convert --subset WHU", ["WHU-OPT-SAR"]),
        ("mmm-rs preview out --config a", ["all"]),
        ("mmm-rs report out --reason not_", sorted(code for code in findings.REASONS if code.startswith("not_"))),
        ("mmm-rs inspect release --decode ", ["full", "structure"]),
        ("mmm-rs export out --to d", ["dataset"]),
    ],
)
def test_bash_completes_commands_options_and_words(place, line, expected):
    assert completed(place, line) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_paths_are_completed_where_a_path_is_wanted(place):
    (place / "MMM-RS-release").mkdir(exist_ok=True)
    assert [word.rstrip("/") for word in completed(place, "mmm-rs inspect MMM-RS-")] == ["MMM-RS-release"]


@pytest.mark.parametrize(("shell", "says"), [("zsh", "compdef"), ("fish", "complete"), ("powershell", "Register")])
def test_other_shells_have_their_lines(run, shell, says):
    code, printed, errors = run("completion", shell)
    assert (code, errors) == (0, []) and says in printed and "mmm-rs" in printed
