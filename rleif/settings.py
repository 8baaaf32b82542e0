"""Configuration: YAML and flags to dataclasses, with errors that name the key, the nearest known name and the others.

Imports neither torch nor transformers: the dataclasses are handed in.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

import yaml


class SettingsError(ValueError):
    """A configuration cannot be used; the message names the key, what was given and what is allowed."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise SettingsError(f"line {key.start_mark.line + 1}: the key {key.value!r} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML follows, takes 1e-5 for text because it has no dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SettingsError for a missing or malformed file and for a key given twice."""
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"{path}: no such configuration file")
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except SettingsError as error:
        raise SettingsError(f"{path}, {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: expected a mapping of names to values, found {_kind(value)}")
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, such as the value of a flag."""
    try:
        # _Loader is a SafeLoader: it builds plain values only.
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}" if mark else "somewhere"
        raise SettingsError(f"{where}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"not valid YAML: {error}") from None


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises SettingsError for the first unknown name, with the nearest known one.

    `check_names(["sfd"], ["sft", "irm"], "section")` says: unknown section 'sfd'; did you mean 'sft'? Known: irm, sft
    """
    known = sorted(known)
    many = len(known) > 60  # TrainingArguments has twice as many, which nobody reads
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            listed = difflib.get_close_matches(str(name), known, 8, cutoff=0.3) if many else known
            title = f"The nearest of {len(known)} known" if many else "Known"
            raise SettingsError(f"unknown {what} {name!r}{hint} {title}: {', '.join(listed)}")


def override(config: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """The configuration with flags `--section.key value` or `--section.key=value` laid over it.

    >>> override({"sft": {"seed": 1}}, ["--sft.learning_rate", "1e-3", "--sft.seed=2"])
    {'sft': {'seed': 2, 'learning_rate': 0.001}}
    """
    result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        name, has_value, text = flag.removeprefix("--").partition("=")
        section, dot, key = name.partition(".")
        if not flag.startswith("--") or not dot or not section or not key:
            raise SettingsError(
                f"cannot read {flag!r}; an override is --section.key value, such as --ppo.learning_rate 1e-5"
            )
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise SettingsError(f"{flag} has no value")
            text = rest.pop(0)
        inner = result.setdefault(section, {})
        if inner is None:
            inner = result[section] = {}
        if not isinstance(inner, dict):
            raise SettingsError(f"{flag}: {section!r} is not a section, it is {_kind(inner)}")
        inner[key] = parse_yaml(text)
    return result


def build(kinds: Sequence[type], values: Mapping[str, Any], section: str) -> tuple[Any, ...]:
    """One instance of each dataclass from one flat mapping of their fields.

    Raises SettingsError that names the section and the key: an unknown key, a value of the wrong type, a missing
    required one, or what the dataclass itself refuses.
    """
    check_values(kinds, values, section)
    if missing := [name for name in required_names(kinds) if name not in values]:
        raise SettingsError(f"section {section!r} needs {', '.join(missing)}")
    built = []
    for kind in kinds:
        names = {f.name for f in dataclasses.fields(kind) if f.init}
        try:
            built.append(kind(**{name: value for name, value in values.items() if name in names}))
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{section}: {error}") from error
    return tuple(built)


def check_values(kinds: Sequence[type], values: Mapping[str, Any], section: str) -> None:
    """The checks of `build` that need no instance: names and types."""
    check_names(values, field_types(kinds), f"key in section {section!r}:")
    for name, hint in field_types(kinds).items():
        if name in values and not _fits(values[name], hint):
            raise SettingsError(
                f"{section}.{name} is {values[name]!r} ({_kind(values[name])}); expected {_words(hint)}"
            )


def require_positive(arguments: Any, *names: str) -> None:
    """Raises ValueError for a count below 1; None is no limit. Of a list, [:-1] would take a row away unseen."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def field_types(kinds: Sequence[type]) -> dict[str, Any]:
    """Field name to type of one or more dataclasses; they share no name."""
    found: dict[str, Any] = {}
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        names = [f.name for f in dataclasses.fields(kind) if f.init]
        assert not found.keys() & set(names), f"{kind.__name__} repeats {sorted(found.keys() & set(names))}"
        found |= {name: hints[name] for name in names}
    return found


def required_names(kinds: Sequence[type]) -> list[str]:
    """The fields without a default."""
    nothing = dataclasses.MISSING
    every = (f for kind in kinds for f in dataclasses.fields(kind) if f.init)
    return [f.name for f in every if f.default is nothing and f.default_factory is nothing]


def explicit(kinds: Sequence[type], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from their defaults: two configurations mean the same if these are equal."""
    defaults: dict[str, Any] = {}
    for kind in kinds:
        for f in dataclasses.fields(kind):
            if f.default is not dataclasses.MISSING:
                defaults[f.name] = f.default
            elif f.default_factory is not dataclasses.MISSING:
                defaults[f.name] = f.default_factory()
    return {name: value for name, value in sorted(values.items()) if name not in defaults or defaults[name] != value}


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value if parts)
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is type(None):
        return value is None
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [member.value for member in hint]
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _words(hint: Any) -> str:
    """A type in words a user reads."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (list, tuple) or hint is list:
        return f"a list of {_words(parts[0])}" if parts else "a list"
    if origin is dict or hint is dict:
        return "a mapping"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number"}
    kinds |= {bool: "true or false", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)
