"""A form: what a value in a project's file may be. The same form reads the value and says it as JSON schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Protocol

from vmm import limits
from vmm.errors import BadSpec

Path = tuple[str | int, ...]
Say = Callable[[Path, str], None]  # told what is wrong, and where
Schema = dict[str, Any]

_BARE: Final = re.compile("[A-Za-z0-9_-]+")


class Form(Protocol):
    """`types` are those that TOML's values of this form have in Python."""

    @property
    def types(self) -> tuple[type, ...]: ...
    @property
    def what(self) -> str: ...
    def schema(self) -> Schema: ...
    def read(self, value: Any, path: Path, say: Say) -> Any:
        """Return what the value means. None if something was said against it."""
        ...


@dataclass(frozen=True)
class Text:
    """`of` makes a value of a text that the pattern fits; it raises BadSpec."""

    what: str
    pattern: str = r"[^\u0000]*"
    of: Callable[[str], Any] = str
    examples: tuple[str, ...] = ()
    length_max: int = limits.text_bytes_max
    types: tuple[type, ...] = (str,)

    def schema(self) -> Schema:
        made: Schema = {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.length_max}
        return made | ({"examples": list(self.examples)} if self.examples else {})

    def read(self, value: Any, path: Path, say: Say) -> Any:
        if not _is(self, value, path, say):
            return None
        if len(value) > self.length_max:
            return say(path, f"over {self.length_max} characters")
        if not re.fullmatch(self.pattern, value):
            return say(path, f"{shown(value)} is not {self.what}{_like(self.examples)}")
        try:
            return self.of(value)
        except BadSpec as error:
            return say(path, str(error))


@dataclass(frozen=True)
class Number:
    least: int
    most: int
    called: str = ""
    types: tuple[type, ...] = (int,)

    @property
    def what(self) -> str:
        return self.called or f"a number from {self.least} to {self.most}"

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def read(self, value: Any, path: Path, say: Say) -> int | None:
        if _is(self, value, path, say) and not self.least <= value <= self.most:
            say(path, f"{value} is not {self.what}")
        return value if type(value) is int else None


@dataclass(frozen=True)
class Choice:
    words: tuple[str, ...]
    types: tuple[type, ...] = (str,)

    @property
    def what(self) -> str:
        return f"one of {', '.join(self.words)}"

    def schema(self) -> Schema:
        return {"enum": list(self.words)}

    def read(self, value: Any, path: Path, say: Say) -> str | None:
        if not _is(self, value, path, say):
            return None
        if value not in self.words:
            say(path, f"{shown(value)} is not {self.what}")
            return None
        return str(value)


@dataclass(frozen=True)
class Rows:
    """A list; what is read is a tuple."""

    of: Form
    most: int
    least: int = 0
    types: tuple[type, ...] = (list,)

    @property
    def what(self) -> str:
        return f"a list; each in it is {self.of.what}"

    def schema(self) -> Schema:
        return {"type": "array", "items": self.of.schema(), "minItems": self.least, "maxItems": self.most}

    def read(self, value: Any, path: Path, say: Say) -> tuple[Any, ...] | None:
        if not _is(self, value, path, say):
            return None
        if not self.least <= len(value) <= self.most:
            say(path, f"there must be {self.least} to {self.most}, not {len(value)}")
            return None
        return tuple(self.of.read(item, (*path, number), say) for number, item in enumerate(value))


@dataclass(frozen=True)
class Table:
    """A table whose keys people choose."""

    key: Text
    of: Form
    most: int
    least: int = 0
    types: tuple[type, ...] = (dict,)

    @property
    def what(self) -> str:
        return f"a table; each key is {self.key.what}"

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": self.key.schema(),
            "additionalProperties": self.of.schema(),
            "minProperties": self.least,
            "maxProperties": self.most,
        }

    def read(self, value: Any, path: Path, say: Say) -> dict[str, Any] | None:
        if not _is(self, value, path, say):
            return None
        if not self.least <= len(value) <= self.most:
            say(path, f"there must be {self.least} to {self.most}, not {len(value)}")
            return None
        for key in value:
            self.key.read(key, (*path, key), say)
        return {key: self.of.read(inner, (*path, key), say) for key, inner in value.items()}


@dataclass(frozen=True)
class Field:
    name: str
    form: Form
    about: str
    required: bool = False


@dataclass(frozen=True)
class Record:
    """A table whose keys are known. Of the names in `one_of`, if there are any, exactly one is there."""

    fields: tuple[Field, ...]
    one_of: tuple[str, ...] = ()
    types: tuple[type, ...] = (dict,)
    what: str = "a table"

    def schema(self) -> Schema:
        made: Schema = {
            "type": "object",
            "properties": {f.name: {**f.form.schema(), "description": f.about} for f in self.fields},
            "additionalProperties": False,
        }
        if required := [f.name for f in self.fields if f.required]:
            made["required"] = required
        if self.one_of:
            made["oneOf"] = [{"required": [name]} for name in self.one_of]
        return made

    def read(self, value: Any, path: Path, say: Say) -> dict[str, Any] | None:
        if not _is(self, value, path, say):
            return None
        known = {f.name: f for f in self.fields}
        for key in value.keys() - known.keys():
            say((*path, key), f"no such key; {_nearest(key, known)}")
        for f in self.fields:
            if f.required and f.name not in value:
                say(path, f"'{f.name}' is missing: {f.about}")
        self._check_choice(value, path, say)
        return {key: known[key].form.read(inner, (*path, key), say) for key, inner in value.items() if key in known}

    def _check_choice(self, value: dict[str, Any], path: Path, say: Say) -> None:
        there = [name for name in self.one_of if name in value]
        if self.one_of and not there:
            say(path, f"one of {', '.join(self.one_of)} must be there")
        for name in there[1:]:
            say((*path, name), f"'{there[0]}' is there already; only one of {', '.join(self.one_of)} can be")


@dataclass(frozen=True)
class Either:
    """One of several forms, which differ in their types."""

    forms: tuple[Form, ...]

    @property
    def types(self) -> tuple[type, ...]:
        return tuple(one for form in self.forms for one in form.types)

    @property
    def what(self) -> str:
        return ", or ".join(form.what for form in self.forms)

    def schema(self) -> Schema:
        return {"anyOf": [form.schema() for form in self.forms]}

    def read(self, value: Any, path: Path, say: Say) -> Any:
        for form in self.forms:
            if type(value) in form.types:
                return form.read(value, path, say)
        _is(self, value, path, say)
        return None


def _is(form: Form, value: Any, path: Path, say: Say) -> bool:
    if type(value) in form.types:
        return True
    say(path, f"{shown(value)} is not {form.what}{_like(getattr(form, 'examples', ()))}")
    return False


def _like(examples: Iterable[str]) -> str:
    return "".join([", like ", " or ".join(examples)]) if examples else ""


def _nearest(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(key, list(known), 1)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"


def shown(value: Any) -> str:
    """Return a value as a message has it, in one line that is not too long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    text = ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:76] + "...'"


def dotted(path: Path) -> str:
    """Return a path of keys as TOML has it."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _BARE.fullmatch(step) else shown(step))
    return text
