"""Errors on the wire: a leaf of the tree by its code, its attributes as a JSON object.

Invariant: every leaf of `services.domain.errors.LEAVES` comes back equal; a cause or traceback does not
cross. Not here: HTTP and gRPC status (`services.gateway`).
"""

import json
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

from services.domain.errors import LEAVES, InternalFault, ServingError
from services.wire.codec.fields import fault, number
from services.wire.generated.baton.internal.v1 import request_pb2 as pb

_LEAVES = {leaf.code: leaf for leaf in LEAVES}


def error_to_proto(error: ServingError) -> pb.ServingError:
    """Write an error; one that is no leaf crosses as the leaf that stands for its code, else as a fault."""
    leaf = _LEAVES.get(error.code, InternalFault)
    attributes = {f.name: getattr(error, f.name) for f in _attributes(leaf)}
    text = json.dumps(attributes, sort_keys=True, separators=(",", ":")) if attributes else ""
    return pb.ServingError(code=leaf.code, message=error.message, attributes_json=text)


def error_from_proto(message: pb.ServingError) -> ServingError:
    """Read an error.

    Raises:
        WireError: its code is unknown, or an attribute is missing or of another type.
    """
    leaf = _LEAVES.get(message.code)
    if leaf is None:
        raise fault("ServingError.code", f"has the unknown value {message.code!r}")
    given = _object(message.attributes_json)
    wanted = {f.name: _attribute(f, given) for f in _attributes(leaf)}
    return leaf(message=message.message, **wanted)


def _attributes(leaf: type[ServingError]) -> list["Field[Any]"]:
    return [f for f in fields(leaf) if f.name != "message"]


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise fault("ServingError.attributes_json", "is not a JSON object")
    return value


def _attribute(field: "Field[Any]", given: dict[str, object]) -> object:
    """Read one attribute as the type that its leaf declares (str, int, float, or one of them or None)."""
    name = f"ServingError.attributes_json.{field.name}"
    value = given.get(field.name, field.default)
    if value is MISSING:
        raise fault(name, "is missing")
    kinds = get_args(field.type) or (field.type,)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        value = _as_float(name, value)
    if type(value) not in kinds:
        raise fault(name, f"has the type {type(value).__name__}")
    if isinstance(value, str):
        return _as_unicode(name, value)
    return number(name, value) if isinstance(value, float) else value


def _as_unicode(name: str, value: str) -> str:
    """Refuse half a surrogate pair: JSON can escape one, and no later encoder could write it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise fault(name, "is not Unicode text") from None
    return value


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise fault(name, "is too large") from None
