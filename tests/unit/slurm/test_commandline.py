"""sbatch's words and a script's head, read as sbatch reads them; tests/lab/test_sbatch.py asks the real one."""

from __future__ import annotations

import pytest

from slurm.commandline import CommandLineError, directive_words, parse_help, read_command_line, script_head
from slurm.sbatch import OPTIONS, OptionError, Takes


@pytest.mark.parametrize(
    ("words", "options", "script"),
    [
        ("-n4 --env dev job.sh --env not-ours", {"ntasks": "4", "env": "dev"}, "job.sh --env not-ours"),
        ("--env=dev -HQ job.sh", {"env": "dev", "hold": None, "quiet": None}, "job.sh"),
        ("-HQn 4 job.sh", {"hold": None, "quiet": None, "ntasks": "4"}, "job.sh"),
        ("--comment --env job.sh", {"comment": "--env"}, "job.sh"),
        ("--wrap --env=x", {"wrap": "--env=x"}, ""),
        ("--part gpu --tasks-per-node 2 job.sh", {"partition": "gpu", "ntasks-per-node": "2"}, "job.sh"),
        ("--exclusive user job.sh", {"exclusive": None}, "user job.sh"),
        ("--exclusive=user job.sh", {"exclusive": "user"}, "job.sh"),
        ("-n1 : --env x -n2 job.sh", {"env": "x", "ntasks": "2"}, "job.sh"),
        ("-Q -- --env", {"quiet": None}, "--env"),
        ("-Q -", {"quiet": None}, "-"),
        ("", {}, ""),
    ],
)
def test_options_end_where_the_script_begins(words: str, options: dict[str, str | None], script: str) -> None:
    line = read_command_line(words.split())
    assert {given.name: given.value for given in line.options} == options
    assert list(line.script) == script.split()


def test_what_is_ours_is_taken_out_and_nothing_else() -> None:
    line = read_command_line(["-n", "4", "--env", "dev", "--comment=--env x", "--env=other", "job.sh", "--env", "y"])
    assert line.without("env") == ["-n", "4", "--comment=--env x"]
    assert line.without("env", "ntasks") == ["--comment=--env x"]
    assert (line.value("env"), line.has("env"), line.has("wrap")) == ("other", True, False)


@pytest.mark.parametrize("words", ["--no-such job.sh", "-n", "--ntask 3 job.sh", "-y job.sh", "-Q --env"])
def test_what_cannot_be_read_leaves_the_rest_to_sbatch(words: str) -> None:
    with pytest.raises(CommandLineError) as failure:
        read_command_line(["--env=dev", *words.split()])
    line = failure.value.line
    assert line.value("env") == "dev"
    assert [*line.without("env"), *line.script] == words.split()


def test_an_option_of_a_plugin_is_learnt_from_the_help() -> None:
    told = parse_help(
        "Usage: sbatch [OPTIONS]\n"
        "  -x, --exclude=hosts...      exclude\n"
        "      --exclusive[=user]      alone\n"
        "  -H, --hold                  held\n"
        "Options provided by plugins:\n"
        "      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH\n"
        "                              --no-option in the text\n"
    )
    assert {name: (option.letter, option.takes) for name, option in told.items()} == {
        "exclude": ("x", Takes.VALUE),
        "exclusive": ("", Takes.PERHAPS),
        "hold": ("H", Takes.NOTHING),
        "container-image": ("", Takes.VALUE),
    }
    line = read_command_line(["--container-image", "ubuntu", "--env", "dev", "job.sh"], told | OPTIONS)
    assert (line.value("env"), line.script) == ("dev", ("job.sh",))


def test_the_head_ends_at_the_first_command() -> None:
    script = b"#!/bin/sh\n#SBATCH -n1\n\n  # more\n#SBATCH -n2\necho\n#SBATCH -n3\n"
    assert script_head(script) == [b"#!/bin/sh", b"#SBATCH -n1", b"", b"  # more", b"#SBATCH -n2"]
    assert directive_words("#SBATCH", script) == [(2, ["-n1"]), (5, ["-n2"])]
    assert directive_words("#BERTH", b"#!/bin/sh\n #BERTH --env x\n# BERTH --env y\n#BERTH\n") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (' --comment="two words" -n1', ["--comment=two words", "-n1"]),
        (" --comment='a \"b\"' ", ['--comment=a "b"']),
        (r" --comment=a\ b", ["--comment=a b"]),
        (" --time=4 # of minutes", ["--time=4"]),
        (" --job-name=a#b", ["--job-name=a#b"]),
        (" --comment=''", ["--comment="]),
        ("\t-n1\t-c2", ["-n1", "-c2"]),
        (" --comment=a\u00a0--gres=gpu:8\u2028-n9\x1c-c9", ["--comment=a\u00a0--gres=gpu:8\u2028-n9\x1c-c9"]),
    ],
)
def test_words_of_a_line(text: str, words: list[str]) -> None:
    assert directive_words("#SBATCH", f"#!/bin/sh\n#SBATCH{text}\n".encode()) == [(2, words)]


def test_a_quote_that_does_not_end() -> None:
    with pytest.raises(OptionError, match="line 2 of the script"):
        directive_words("#SBATCH", b"#!/bin/sh\n#SBATCH --comment='x\n")
