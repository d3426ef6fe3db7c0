"""Every command explains itself, and what it tells people to type next works."""

from __future__ import annotations

import functools
import re
import shlex

import pytest

from mmm_rs_cli import arguments, cli
from mmm_rs_cli.demo import demo
from mmm_rs_cli.demo.synthetic import write_release

COMMANDS = list(arguments.parser().commands)


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert len(COMMANDS) > 10 and all(re.search(rf"^    {command}\s+\w", printed, re.M) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example_that_the_command_takes(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    (example,) = re.findall(r"^example:\n  (.*)$", printed, re.M)
    words = shlex.split(re.search(r"mmm-rs [^>)]*", example)[0])  # without a redirection, or out of a substitution
    parsed = arguments.parser().parse_args(words[1:])
    assert end.value.code == 0 and words[1] == command and callable(parsed.run)
    assert all(line.split("  ")[-1].strip() for line in printed.splitlines() if line.startswith("  -"))


def test_the_demo_ends_with_commands_that_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "write_release", functools.partial(write_release, size=64))
    code, printed, _ = run("demo", tmp_path / "my demo")
    assert code == 0 and "All of this is synthetic" in printed
    steps = [shlex.split(line) for line in printed.split("\nNext:\n")[1].splitlines()]
    assert [step[1] for step in steps] == ["preview", "report", "show"]
    for step in steps:
        assert run(*step[1:])[0] == 0
    loading = printed[printed.index("  from datasets") : printed.index("\nNext:")]
    names: dict = {}
    exec(loading.replace("  load_dataset", "rows = load_dataset").replace("  from", "from"), names)
    assert next(iter(names["rows"]))["json"]["subset"] == "WHU-OPT-SAR"
