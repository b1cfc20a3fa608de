"""What the library says, in the words of the command line: its options instead of arguments of Python."""

import argparse
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pm_gplvm.commands.arguments import options_of

Options = Mapping[str, argparse.Action]

# Where an option has another name than the argument, or an argument several options by its value.
_OPTIONS = {
    "random_seed": ("seed",),
    "n_restarts": ("restarts",),
    "n_starts": ("starts",),
    "n_pairs": ("pairs",),
    "missing": ("missing", "missing_code"),
}
_VALUE = r"'[^']*'|\"[^\"]*\"|-?\w+(?:\.\w+)*|\(\d+, \d+\)|"
_GIVEN = rf"\b([a-z_]+)=({_VALUE})(?![\w=({{\[])"
_ASSIGNED = re.compile(_GIVEN)
_CALLED = re.compile(rf"\b[\w.]+\((?:[^()=]*, )?({_GIVEN})\)")
# Bare words are arguments where a sentence begins with them, or tells to raise them.
_BARE = re.compile(
    r"^[a-z_]+(?: and [a-z_]+)?(?= (?:must|needs|says)\b)|(?<=[Rr]aise )[a-z_]+(?: (?:and|or) [a-z_]+)?\b"
)
_FITTED = re.compile(r"(?<=[Uu]se )fit_([a-z]+)\b(?!\()")
_NAMED = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b(?![=(])")

# What is done to a table in Python, and has no place beside a file.
_PYTHON = (
    (re.compile(r",? or Y\.\w+\([^()]*\)"), ""),
    (re.compile(r"\bpass Y(?:_new)?\.T\b"), "transpose the file"),
    (re.compile(r"^Y(?= )"), "The table"),
    (re.compile(r"^Y_new(?= )"), "The table of new rows"),
)

# Calls, and the commands that do the same.
_COMMANDS = (
    ("Go on from here: {fit}, or raise", "Raise"),
    ("Go on with start=fit, or raise", "Raise"),
    (" Go on from here with start=fit.", ""),
    ("{fit}", r"--fit \1"),
    ("sample_theta(model, fit)", "pm-gplvm sample {file}"),
    ("sample(model)", "pm-gplvm sample {file} --full"),
    ("diagnostics.active_dimensions(fit)", "pm-gplvm plot {file} --kind relevance"),
    ("plot.latent(fit)", "pm-gplvm plot {file}"),
    ("diagnose(fit)", "pm-gplvm diagnose {file}"),
)


def spoken(text: str, command: str, fit: Any = "FIT") -> str:
    """Return a message with the options of a command for the arguments that it names.

    What the command has no option for stays as it is. ``fit`` is the file that calls with ``fit`` are about.
    """
    known = options_of(command)
    for python, said in _PYTHON:
        text = python.sub(said, text)
    text = _CALLED.sub(lambda m: _set(known, m[2], m[3]) or m[0], text)
    text = _ASSIGNED.sub(lambda m: _set(known, m[1], m[2]) or m[0], text)
    text = _BARE.sub(lambda m: " ".join(_flag(known, word) for word in m[0].split()), text)
    text = _FITTED.sub(lambda m: _set(known, "inference", f"'{m[1]}'") or m[0], text)
    text = _NAMED.sub(lambda m: _flag(known, m[0]), text)
    for call, said in _COMMANDS:
        pattern = re.escape(call).replace(r"\{fit\}", r"fit_([a-z]+)\((?:model|Y), start=fit\)")
        text = re.sub(pattern, said, text)
    return text.replace("{file}", shlex.quote(str(fit)))


@contextmanager
def in_options_of(command: str) -> Iterator[None]:
    """Tell errors and warnings of the library in the words of a command."""
    told = warnings.showwarning

    def show(message: Warning | str, *about: Any, **more: Any) -> None:
        told(spoken(str(message), command), *about, **more)

    warnings.showwarning = show
    try:
        yield
    except (OSError, ImportError, TypeError, ValueError) as error:
        if error.args == (str(error),):
            error.args = (spoken(str(error), command),)
        raise
    finally:
        warnings.showwarning = told


def _actions(known: Options, name: str) -> list[argparse.Action]:
    """Options for an argument of the library."""
    return [known[dest] for dest in _OPTIONS.get(name, (name,)) if dest in known]


def _flag(known: Options, name: str) -> str:
    found = _actions(known, name)
    return found[0].option_strings[0] if found else name


def _set(known: Options, name: str, value: str) -> str | None:
    """Return ``name=value`` as an option; None if there is none that takes it."""
    quoted = value[:1] in ("'", '"')
    plain = value[1:-1] if quoted else {"True": "yes", "False": "no"}.get(value, value)
    if pair := re.fullmatch(r"\((\d+), (\d+)\)", plain):
        plain = ("x" if name == "image_shape" else ",").join(pair.groups())
    if not (quoted or plain in ("", "yes", "no") or re.fullmatch(r"-?\d.*", plain)):
        return None  # a variable
    for action in _actions(known, name):
        flag = action.option_strings[0]
        if not value:
            return flag
        if action.nargs == 0:
            return flag if value == "True" else None
        if action.choices is None or plain in action.choices:
            return f"{flag} {shlex.quote(plain)}"
    return None
