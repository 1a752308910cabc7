"""How fields are read and refused: the one error of this package and the checks that raise it.

Comes in: parsed messages of a peer that may be newer, older or broken. Goes out: values, or `WireError`
with the field's name. Fields that this version does not know are ignored, so that a newer peer may add
some; a choice or an enum value that it does not know is refused, because its meaning would be lost.
Not here: what the fields mean.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from sys import byteorder
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from services.domain.errors import InternalFault

M = TypeVar("M", bound=Message)
V = TypeVar("V")

TOKEN_BYTES = 4
"""Bytes of one packed token id (little-endian uint32)."""


@dataclass(kw_only=True)
class WireError(InternalFault):
    """Bytes or a message of a peer cannot be read, or a value cannot be written.

    It crosses a process as its parent leaf does.
    """

    field: str
    """Message and field at fault, as in `Ticket.block_count`."""
    __hash__ = InternalFault.__hash__


def fault(field: str, problem: str) -> WireError:
    """Make the error for one field."""
    return WireError(field=field, message=f"{field} {problem}")


def parse(kind: type[M], data: bytes) -> M:
    """Parse the bytes of one message.

    Raises:
        WireError: they are not a message of that kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise fault(kind.DESCRIPTOR.name, f"cannot be parsed from {len(data)} bytes") from None


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn a value outside of its field's range into the error of this package.

    Raises:
        WireError: a number does not fit its field, or a text is not Unicode.
    """
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise fault(name, f"cannot be written: {error}") from error


def present(field: str, message: Message, name: str) -> None:
    """Refuse a message whose sub-message `name` is missing.

    Raises:
        WireError: it is.
    """
    if not message.HasField(name):
        raise fault(field, "is missing")


def identity(field: str, value: str) -> str:
    """Read an identifier.

    Raises:
        WireError: it is empty, which is how a missing one arrives.
    """
    if not value:
        raise fault(field, "is missing")
    return value


def positive(field: str, value: V) -> V:
    """Read a number that others divide by or count down from.

    Raises:
        WireError: it is zero, which is how a missing one arrives, or negative or not a number.
    """
    if not isinstance(value, int | float) or not value > 0:
        raise fault(field, f"must be positive, got {value!r}")
    return value


def share(field: str, value: float) -> float:
    """Read a share that is never nothing.

    Raises:
        WireError: it is not in (0, 1].
    """
    if not 0 < value <= 1:
        raise fault(field, f"must be in (0, 1], got {value!r}")
    return value


def number(field: str, value: float) -> float:
    """Read a floating point number.

    Raises:
        WireError: it is not a number; such a value would pass every comparison with a limit.
    """
    if math.isnan(value):
        raise fault(field, "is not a number")
    return value


def known(field: str, names: Mapping[int, V], value: int) -> V:
    """Read an enum.

    Raises:
        WireError: it is unset or unknown.
    """
    try:
        return names[value]
    except KeyError:
        raise fault(field, f"has the unknown value {value}" if value else "is missing") from None


def unknown_choice(field: str) -> WireError:
    """Make the error for a union of which no member is set, as far as this version knows."""
    return fault(field, "is missing or of a kind that this version does not know")


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """Write token ids as little-endian uint32.

    Args:
        token_ids: shape [tokens], each in [0, 2**32).

    Raises:
        OverflowError: an id is outside of that range.
    """
    tokens = array("I", token_ids)
    if byteorder == "big":
        tokens.byteswap()
    return tokens.tobytes()


def unpack_tokens(field: str, packed: bytes) -> tuple[int, ...]:
    """Read token ids from little-endian uint32.

    Raises:
        WireError: the bytes are no whole number of ids.
    """
    if len(packed) % TOKEN_BYTES:
        raise fault(field, f"has {len(packed)} bytes, no multiple of {TOKEN_BYTES}")
    tokens = array("I", packed)
    if byteorder == "big":
        tokens.byteswap()
    return tuple(tokens)
