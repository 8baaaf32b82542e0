"""Flags and YAML to dataclasses, with an error that helps for a key that does not exist."""

import difflib
import sys
from collections.abc import Sequence
from typing import Any


def parse_arguments(classes: Sequence[type], argv: Sequence[str], prog: str) -> tuple[Any, ...]:
    """One instance of each dataclass from `--config file.yaml` and flags; a flag wins over the file.

    Raises ValueError for an unknown key or flag, naming the nearest known one.
    """
    from trl.scripts.utils import TrlParser

    dataclasses: Any = list(classes)
    # A hundred training flags would bury the message of an error, so they are listed by --help alone.
    usage = f"{prog} [--config file.yaml] [--flag value ...]"
    parser = TrlParser(dataclasses, prog=prog, usage=usage, allow_abbrev=False)
    flags = {*parser._option_string_actions, "--config"}
    # Before parsing: a misspelled flag that is required would else be reported as missing.
    given = [text.split("=")[0] for text in argv if text.startswith("--")]
    _refuse_unknown([flag for flag in given if flag not in flags], flags, "on the command line")
    *parsed, from_file, from_flags = parser.parse_args_and_config(
        list(argv), return_remaining_strings=True, separate_remaining_strings=True
    )
    _refuse_unknown(from_file[::2], flags, "in the config file")
    if from_flags:
        raise ValueError(f"on the command line: {from_flags} belong to no flag")
    return tuple(parsed)


def _refuse_unknown(flags: Sequence[str], known: set[str], place: str) -> None:
    told = []
    for flag in flags:
        near = difflib.get_close_matches(flag.replace("-", "_"), [k.replace("-", "_") for k in sorted(known)], n=1)
        name = flag.removeprefix("--")
        told.append(f"{name!r}, did you mean {near[0].strip('_')!r}?" if near else f"{name!r}, see --help")
    if told:
        raise ValueError(f"unknown {place}: {'; '.join(told)}")


def run_command(commands: dict[str, Any], usage: str, argv: Sequence[str] | None = None) -> int:
    """Call `commands[argv[0]](argv[1:])`; without a known command print the usage. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0 if arguments else 2
    if arguments[0] not in commands:
        near = difflib.get_close_matches(arguments[0], commands, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"error: unknown command {arguments[0]!r}; {hint}Known: {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[arguments[0]](arguments[1:])
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
