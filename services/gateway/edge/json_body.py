"""Bytes of a body to a struct, or a refusal that names the field at fault.

Comes in: untrusted bytes. Goes out: a struct. Invariant: whatever the bytes are, the outcome is a
value or an `InvalidRequest`.
"""

import re
from typing import TypeVar

import msgspec

from services.domain.errors import InvalidRequest

S = TypeVar("S")

_AT_PATH = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")


def parse_body(decoder: msgspec.json.Decoder[S], body: bytes) -> S:
    """Parse and check a JSON body.

    Raises:
        InvalidRequest: no UTF-8, no JSON, nested too deeply, or a value of a wrong type or range.
    """
    try:
        body.decode()  # msgspec does not look into strings of fields that it skips
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(message=f"the body is not valid UTF-8: {error.reason}") from None
    except RecursionError:
        raise InvalidRequest(message="the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        what, param = _name_field(str(error))
        where = f"{param}: " if param else ""
        raise InvalidRequest(message=f"{where}{what}", param=param) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(message=f"the body is not valid JSON: {error}") from None


def _name_field(message: str) -> tuple[str, str | None]:
    """Split msgspec's message into what is wrong and the dotted name of the field."""
    found = _AT_PATH.match(message)
    what, path = (found["what"], found["path"]) if found else (message, "")
    missing = _MISSING.match(what)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        what = "required, but missing"
    return what, path or None
