"""The chart's `values.yaml` and `values.schema.json`, made from the structs of its values.

Comes in: `ChartValues`, by import. Goes out: text, the same for the same source.
Invariant: what the chart's schema lets through under `settings`, `vllm`, `simulated` and `worker` is what the
program's own struct would take, less what the chart itself sets.
Not here: files (`services.cli.pages`), rules that span several keys (templates, and the programs at start).
"""

import json
import textwrap
from collections.abc import Iterator

import msgspec
from msgspec import inspect as shape

from services.cli.chart.keys import ChartSection
from services.cli.chart.values import SET_BY_THE_CHART, ChartValues, ProgramSettings
from services.cli.settings_page import list_settings

Schema = dict[str, object]

_REF = "#/$defs/"
_WIDTH_CHARS = 108


def render_schema() -> str:
    """Write `values.schema.json`."""
    (root,), components = msgspec.json.schema_components((ChartValues,), ref_template=f"{_REF}{{name}}")
    del root
    structs = {found.cls.__name__: found for found in _structs(shape.type_info(ChartValues))}
    definitions = {name: _definition(structs.get(name), schema) for name, schema in components.items()}
    top = definitions.pop(ChartValues.__name__)
    properties = top["properties"]
    assert isinstance(properties, dict)  # noqa: S101  # a struct's schema
    properties["global"] = {"type": "object", "description": "Helm's own, given to charts inside others."}
    used = _reachable(top, definitions)
    whole: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **top}
    whole["$defs"] = {name: schema for name, schema in definitions.items() if name in used}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def render_values() -> str:
    """Write `values.yaml`: every key of the chart with its default and meaning."""
    head = (
        "# Values of the Baton chart: every key, its meaning and its default. Made from\n"
        "# services/cli/chart by `python -m services.cli.pages`; a test compares the two.\n"
        "# Keys under settings, vllm, simulated and worker are those of docs/settings.md. Keys that several\n"
        "# kinds of pods share are explained where they stand first.\n"
    )
    found = shape.type_info(ChartValues)
    assert isinstance(found, shape.StructType)  # noqa: S101  # it is one
    return head + "".join(_section(found, ChartValues(), "", set()))


# -- schema -----------------------------------------------------------------------------------------


def _definition(struct: shape.StructType | shape.DataclassType | None, schema: Schema) -> Schema:
    """One component: without defaults and titles, with meanings, without what the chart sets."""
    plain = _plain(schema)
    assert isinstance(plain, dict)  # noqa: S101  # a schema is an object
    if struct is None:
        return plain
    properties = plain["properties"]
    assert isinstance(properties, dict)  # noqa: S101  # a struct's schema
    for setting in list_settings(struct):
        properties[setting.name] |= {"description": setting.meaning} if setting.meaning else {}
    for key in SET_BY_THE_CHART.get(struct.cls, ()):
        del properties[key]
    required = [key for key in plain.get("required", ()) if key in properties]
    return {key: value for key, value in plain.items() if key != "required"} | (
        {"required": required} if required else {}
    )


def _plain(schema: object) -> object:
    """Leave out defaults, titles and the null of a section that may be left out."""
    match schema:
        case {"anyOf": [{"type": "null"}, {"$ref": str() as ref}]} | {
            "anyOf": [{"$ref": str() as ref}, {"type": "null"}]
        }:
            return {"$ref": ref}
        case dict():
            return {
                key: _plain_properties(value) if key == "properties" else _plain(value)
                for key, value in schema.items()
                if key not in ("default", "title", "discriminator")
            }
        case list():
            return [_plain(entry) for entry in schema]
        case _:
            return schema


def _plain_properties(properties: object) -> object:
    """Keep all names: a property may be called `default`."""
    assert isinstance(properties, dict)  # noqa: S101  # JSON schema says so
    return {name: _plain(schema) for name, schema in properties.items()}


def _reachable(schema: object, definitions: dict[str, Schema]) -> set[str]:
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        match waiting.pop():
            case {"$ref": str() as ref} if ref.removeprefix(_REF) not in found:
                found.add(ref.removeprefix(_REF))
                waiting.append(definitions[ref.removeprefix(_REF)])
            case dict() as inner:
                waiting += inner.values()
            case list() as entries:
                waiting += entries
            case _:
                pass
    return found


def _structs(kind: shape.Type) -> Iterator[shape.StructType | shape.DataclassType]:
    """Walk to every struct that a type holds, each time it is held."""
    match kind:
        case shape.StructType() | shape.DataclassType():
            yield kind
            for inner in kind.fields:
                yield from _structs(inner.type)
        case shape.Metadata(type=held) | shape.ListType(item_type=held) | shape.VarTupleType(item_type=held):
            yield from _structs(held)
        case shape.UnionType(types=types):
            for one in types:
                yield from _structs(one)
        case _:
            return


# -- values -----------------------------------------------------------------------------------------


def _section(
    found: shape.StructType, value: msgspec.Struct, indent: str, said: set[tuple[str, str]]
) -> Iterator[str]:
    """Write the keys of a section; a meaning that was said of a key of that name is not said again."""
    meanings = {setting.name: setting.meaning for setting in list_settings(found)}
    for inner in found.fields:
        if not indent:
            yield "\n"
        meaning = meanings[inner.encode_name]
        if (inner.encode_name, meaning) not in said:
            said.add((inner.encode_name, meaning))
            for line in textwrap.wrap(meaning, _WIDTH_CHARS - len(indent)):
                yield f"{indent}# {line}\n"
        own = getattr(value, inner.name)
        kind = inner.type.type if isinstance(inner.type, shape.Metadata) else inner.type
        if isinstance(kind, shape.ListType) and isinstance(kind.item_type, shape.StructType):
            yield from _keys_of_entries(kind.item_type, f"{indent}#   ", said)
        if isinstance(own, ChartSection) and isinstance(kind, shape.StructType):
            yield f"{indent}{inner.encode_name}:\n"
            yield from _section(kind, own, indent + "  ", said)
        else:
            yield f"{indent}{inner.encode_name}: {json.dumps(_told(own))}\n"


def _keys_of_entries(
    found: shape.StructType, prefix: str, said: set[tuple[str, str]], at: str = ""
) -> Iterator[str]:
    """Explain the keys of a list's entries, which may stand in no default."""
    for setting, inner in zip(list_settings(found), found.fields, strict=True):
        if (setting.name, setting.meaning) in said:
            continue
        said.add((setting.name, setting.meaning))
        text = f"{at}{setting.name}: {setting.meaning}"
        yield from (f"{prefix}{line}\n" for line in textwrap.wrap(text, _WIDTH_CHARS - len(prefix)))
        if isinstance(inner.type, shape.StructType):
            yield from _keys_of_entries(inner.type, prefix, said, f"{at}{setting.name}.")


def _told(value: object) -> object:
    """What stands in the file for a default: programs keep theirs, lists of sections tell what differs."""
    match value:
        case None:
            return {}
        case ProgramSettings():
            return {"log_format": value.log_format.value}
        case list():
            return [_told(entry) for entry in value]
        case ChartSection():
            return _differing(value)
        case _:
            return value


def _differing(value: msgspec.Struct) -> Schema:
    found: Schema = {}
    for inner in msgspec.structs.fields(value):
        own = getattr(value, inner.name)
        default = inner.default_factory() if inner.default_factory is not msgspec.NODEFAULT else inner.default
        if own != default:
            found[inner.encode_name] = _told(own)
    return found
