"""Settings: YAML and environment into frozen structs, or a refusal that names the key.

Comes in: a `msgspec.Struct` class (frozen, forbid_unknown_fields), a YAML mapping, overrides.
Goes out: a value of that class. Invariant: nothing is clamped or guessed; a wrong value, an unknown
key or an impossible combination (checked in `__post_init__`) refuses the start and names the key.
Not here: the settings themselves; each room owns its own struct.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from services.domain.errors import ConfigurationInvalid

S = TypeVar("S", bound=msgspec.Struct)

_LITERAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?|true|false|null")
_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)


def parse(kind: type[S], values: Mapping[str, object], *, source: str) -> S:
    """Turn plain values into settings.

    Args:
        kind: the struct class.
        values: keys and values as YAML gives them.
        source: where they come from, for the message ("baton.yaml", "flags").

    Raises:
        ConfigurationInvalid: a key is unknown or a value cannot be.
    """
    try:
        return msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        match = _AT_PATH.match(str(error))
        what, path = (match["what"], match["path"] or "") if match else (str(error), "")
        unknown = re.search(r"unknown field `(?P<name>[^`]*)`", what)
        key = ".".join(p for p in (path.strip("."), unknown["name"] if unknown else "") if p)
        raise ConfigurationInvalid(key=key or "?", message=f"{source}: {key or 'settings'}: {what}") from None


class _Loader(yaml.SafeLoader):
    """YAML as of version 1.2, and so JSON, where numbers are concerned: PyYAML takes 1e-9 for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, object]:
    """Read a YAML mapping.

    Raises:
        ConfigurationInvalid: the file is missing, no YAML, or no mapping.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a SafeLoader
    except OSError as error:
        raise ConfigurationInvalid(key=str(path), message=f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(key=str(path), message=f"{path}: not valid YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(k, str) for k in loaded):
        raise ConfigurationInvalid(key=str(path), message=f"{path}: must be a mapping of names to values")
    return loaded


def override(values: dict[str, object], assignments: Sequence[str]) -> dict[str, object]:
    """Set single keys of a mapping that was read from a file, for what only the place of a process knows.

    Args:
        values: as `read_yaml` gives them; changed in place.
        assignments: KEY=VALUE, a dot between the parts of a key and a number for an entry of a list. A
            number, true, false and null are what they are in JSON; everything else is text.

    Returns:
        The same mapping.

    Raises:
        ConfigurationInvalid: an assignment has no "=", or its key leads through what is no section.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not (key and equals):
            raise ConfigurationInvalid(key="--set", message=f"--set: {assignment!r} is not KEY=VALUE")
        value = msgspec.json.decode(text) if _LITERAL.fullmatch(text) else text
        *way, last = key.split(".")
        at: object = values
        for part in way:
            at = _step(at, part, key)
        if not isinstance(at, dict):
            raise ConfigurationInvalid(key=key, message=f"--set: {key}: {last!r} is no key of a section")
        at[last] = value
    return values


def _step(at: object, part: str, key: str) -> object:
    if isinstance(at, dict):
        return at.setdefault(part, {})
    if isinstance(at, list) and part.isdecimal() and int(part) < len(at):
        return at[int(part)]
    raise ConfigurationInvalid(key=key, message=f"--set: {key}: there is no {part!r} on the way")


def dump_json(settings: msgspec.Struct) -> bytes:
    """Encode settings so that another process can read them: JSON is YAML, so `read_yaml` does."""
    return msgspec.json.encode(settings)


def dump_yaml(settings: msgspec.Struct | Mapping[str, object]) -> str:
    """Write settings, defaults included, as YAML that `parse` reads back to an equal value.

    Args:
        settings: a struct; or plain values, of which those that stand in several places are written once and
            referred to.
    """
    plain = msgspec.to_builtins(settings) if isinstance(settings, msgspec.Struct) else settings
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=False)
