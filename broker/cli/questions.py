"""Questions at a terminal, which are repeated after a wrong answer, with the remedy. Ctrl-C and an end of input raise
`click.Abort`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.output import print_note
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Sequence

_ANSWERS = {"y": True, "yes": True, "n": False, "no": False}


def ask_yes_no(question: str, *, default: bool = False) -> bool:
    """Return the user's answer to `question`, which ends with a question mark."""
    usual = "yes" if default else "no"
    text = f"{escape_controls(question)} [{'Y/n' if default else 'y/N'}]"
    while True:
        answer = _read(text, "")
        if not answer:
            return default
        if answer.lower() in _ANSWERS:
            return _ANSWERS[answer.lower()]
        _refuse(answer, f"type y or n; Enter alone means {usual}")


def ask_choice(question: str, choices: Sequence[str], *, default: str, remedy: str) -> str:
    """Return one of `choices`. `remedy` is printed after another answer."""
    while True:
        answer = _read(f"{question} [{default}]", default)
        if answer in choices:
            return answer
        _refuse(answer, remedy)


def _read(text: str, default: str) -> str:
    answer: str = click.prompt(text, default=default, show_default=False, err=True)
    return answer.strip()


def _refuse(answer: str, remedy: str) -> None:
    print_note(f"berth: {answer!r} is not an answer to this question")
    print_note(f"  hint: {remedy}")
