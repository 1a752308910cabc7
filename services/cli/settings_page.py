"""The reference of all settings, made from the structs that parse them: docs/settings.md.

Comes in: the settings structs, by import. Goes out: Markdown, the same for the same source.
Invariant: every field of every struct that a settings file can reach is listed once, with a meaning.
A field says what it means in `Meta(description)`, in a string under it, or, when it holds further
settings, in their docstring. Not here: reading settings (`services.runtime.settings`).
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

import msgspec
from msgspec import inspect as shape

from planner.process_settings import PlannerProcessSettings
from services.cluster.settings import ClusterSettings
from services.gateway.process_settings import GatewayProcessSettings
from services.router.process_settings import RouterProcessSettings
from services.worker.settings import WorkerProcessSettings

ROOTS: tuple[tuple[type, str], ...] = (
    (ClusterSettings, "baton up --config"),
    (WorkerProcessSettings, "baton worker --settings"),
    (GatewayProcessSettings, "baton gateway --settings"),
    (RouterProcessSettings, "baton router --settings"),
    (PlannerProcessSettings, "baton planner --settings"),
)
"""What a settings file can be, and the command that reads it."""

INTRODUCTION = """\
# Settings

This page is made from the code by `.venv/bin/python -m services.cli.pages`; a test compares the two.

- `baton up`, `baton demo` and `baton settings` read one YAML file (`--config FILE`) and flags; flags win.
- `baton settings` prints what a cluster would run with, defaults included, and starts nothing. What it prints
  can be given to `--config` again.
- `baton worker`, `baton gateway`, `baton router` and `baton planner` each read one YAML or JSON file
  (`--settings FILE`); `--set KEY=VALUE` sets single keys of it, such as `link.advertised_host=10.0.0.7`.
  `baton up` writes these files for the processes it starts; `--run-folder DIR` keeps them to look at.
- An unknown key or an impossible value refuses the start: exit code 2 and a message that names the key.
  Nothing is clamped. Rules that span several keys are told by the message too.
- Units are the last part of a name: `_s` seconds, `_us` microseconds, `_bytes`, `_tokens`, `_blocks`,
  `_frac` a share of 1.
- The environment variable `BATON_URL` names the gateway that `baton chat`, `generate`, `status` and
  `explain` talk to. Passwords and tokens are read from environment variables that settings name, never
  from a file or an argument.

Sections that belong to several files are told once, where they appear first.
"""

_SCALARS: tuple[tuple[type[shape.Type], str], ...] = (
    (shape.BoolType, "boolean"),
    (shape.IntType, "integer"),
    (shape.FloatType, "number"),
    (shape.StrType, "text"),
    (shape.NoneType, "null"),
    (shape.AnyType, "anything"),
)
_BOUNDS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
_UNITS = (("_per_s", "per second"), ("_s", "s"), ("_us", "µs"), ("_frac", "share"))
_MIB = 1024 * 1024

Settings = shape.StructType | shape.DataclassType
"""A shape that is a section of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of a section."""

    name: str
    kind: str
    default: str
    meaning: str
    """Empty when the source says nothing, which a test refuses."""


@dataclass(slots=True, kw_only=True)
class Section:
    """One struct: its keys, and every place where it appears."""

    kind: type
    settings: tuple[Setting, ...]
    command: str
    places: list[str] = field(default_factory=list)
    """Dotted keys, empty text for a whole file; those of other commands with the command's name."""


def sections() -> tuple[Section, ...]:
    """List all sections, whole files first in the order of `ROOTS`, inner ones behind their file."""
    found: dict[type, Section] = {}
    for root, command in ROOTS:
        _collect(_settings_shape(root), "", command, found)
    return tuple(found.values())


def render() -> str:
    """Write the whole page."""
    parts = [INTRODUCTION]
    command = ""
    for section in sections():
        if section.command != command:
            command = section.command
            parts.append(f"## `{command} FILE`\n")
        parts.append(_render_section(section))
    return "\n".join(parts)


def _render_section(section: Section) -> str:
    first, *others = section.places
    also = f" Also: {', '.join(f'`{place}`' for place in others)}." if others else ""
    lines = [f"### `{first}`\n"] if first else []
    lines += [f"{_paragraph(inspect.getdoc(section.kind))}{also}\n"]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{s.name}` | {_cell(s.kind)} | {_cell(s.default)} | {_cell(s.meaning)} |"
        for s in section.settings
    ]
    return "\n".join(lines) + "\n"


def _collect(kind: Settings, at: str, command: str, found: dict[type, Section]) -> None:
    """Add a struct and all that it holds."""
    known = found.get(kind.cls)
    if known is None:
        known = found[kind.cls] = Section(
            kind=kind.cls, settings=tuple(list_settings(kind)), command=command, places=[]
        )
    place = at if command == known.command else f"{command.split()[1]}: {at}"
    if place not in known.places:
        known.places.append(place)
    for inner in kind.fields:
        plain = _plain(inner.type)
        many = isinstance(plain, shape.ListType | shape.VarTupleType)
        for held in _held(plain):
            _collect(held, f"{at}.{inner.name}".lstrip(".") + ("[]" if many else ""), command, found)


def list_settings(kind: Settings) -> Iterator[Setting]:
    """List the keys of one struct."""
    written = _strings_under_fields(kind.cls)
    tag = kind.tag_field if isinstance(kind, shape.StructType) else None
    if tag is not None and isinstance(kind, shape.StructType):
        yield Setting(
            name=tag,
            kind=f"`{kind.tag}`",
            default="",
            meaning="Tells this section from others; needed only where several are possible.",
        )
    for inner in kind.fields:
        yield Setting(
            name=inner.encode_name,
            kind=_describe(inner.type, inner.name),
            default=_render_default(inner),
            meaning=_description(inner.type) or written.get(inner.name) or _meaning_of_held(inner.type),
        )


# -- what a field is --------------------------------------------------------------------------------


def _settings_shape(kind: type) -> Settings:
    found = shape.type_info(kind)
    assert isinstance(found, Settings), f"{kind} is no struct"  # noqa: S101  # ROOTS holds structs only
    return found


def _plain(kind: shape.Type) -> shape.Type:
    return _plain(kind.type) if isinstance(kind, shape.Metadata) else kind


def _held(kind: shape.Type) -> tuple[Settings, ...]:
    """Sections within a type."""
    match _plain(kind):
        case shape.StructType() | shape.DataclassType() as one:
            return (one,)
        case shape.UnionType(types=types):
            return tuple(held for inner in types for held in _held(inner))
        case shape.ListType(item_type=item) | shape.VarTupleType(item_type=item):
            return _held(item)
        case _:
            return ()


def _description(kind: shape.Type) -> str:
    if not isinstance(kind, shape.Metadata):
        return ""
    return str((kind.extra_json_schema or {}).get("description", "")) or _description(kind.type)


def _meaning_of_held(kind: shape.Type) -> str:
    held = _held(kind)
    return _paragraph(inspect.getdoc(held[0].cls)) if len(held) == 1 else ""


def _describe(kind: shape.Type, name: str = "") -> str:
    unit = next((f", {text}" for end, text in _UNITS if name.endswith(end)), "")
    match _plain(kind):
        case shape.StructType() | shape.DataclassType():
            return "section"
        case shape.EnumType(cls=cls):
            return " or ".join(f"`{member.value}`" for member in cls)
        case shape.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
        case shape.UnionType(types=types):
            return " or ".join(dict.fromkeys(_describe(t, name) for t in types))
        case shape.ListType(item_type=item) | shape.VarTupleType(item_type=item):
            return f"list of {_describe(item)}"
        case shape.DictType(value_type=value):
            many = isinstance(_plain(value), shape.UnionType)
            return f"mapping of names to {'values' if many else _describe(value)}"
        case scalar:
            word = next(word for one, word in _SCALARS if isinstance(scalar, one))
            return word + ("" if word in {"null", "text", "boolean"} else unit) + _bounds(scalar)


def _bounds(kind: shape.Type) -> str:
    texts = [f"{sign} {value}" for name, sign in _BOUNDS if (value := getattr(kind, name, None)) is not None]
    if getattr(kind, "min_length", None):
        texts.append("not empty")
    if pattern := getattr(kind, "pattern", None):
        texts.append(f"`{pattern}`")
    return "".join(f", {text}" for text in texts)


def _render_default(inner: shape.Field) -> str:
    if inner.required:
        return "required"
    value = inner.default
    if value is msgspec.NODEFAULT:
        value = inner.default_factory()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, msgspec.Struct):
        return "its own"
    if isinstance(value, int) and "bytes" in inner.name and value >= _MIB and value % 1024 == 0:
        return f"`{value}` ({value / _MIB:g} MiB)"
    return f"`{msgspec.json.encode(value).decode()}`"


# -- what a field means -----------------------------------------------------------------------------


def _strings_under_fields(kind: type) -> dict[str, str]:
    """Read the strings that stand under the fields of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for own in reversed(kind.__mro__):
        if own.__module__.startswith("msgspec") or own is object:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(own)))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for above, below in pairwise(body):
            match above, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str() as text)),
                ):
                    found[name] = _paragraph(inspect.cleandoc(text))
                case _:
                    pass
    return found


def _paragraph(text: str | None) -> str:
    """First paragraph, on one line."""
    return " ".join((text or "").split("\n\n", 1)[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
