"""Fields that OpenAI knows and Baton does not serve: refused when they ask for something.

Comes in: a parsed body. Goes out: nothing, or `Unsupported` that names the field.
Invariant: a client never gets an answer that silently ignores what it asked for.
"""

from collections.abc import Mapping

import msgspec

from services.domain.errors import InvalidRequest, Unsupported

_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Values that change nothing for an answer without that feature; null is one for every field."""


def refuse_unserved(body: msgspec.Struct, at: str = "") -> None:
    """Refuse a body that asks for something not served.

    Args:
        body: whose fields of these names are `Unserved`.
        at: where the body stands in the call ("messages[0]."), empty for the whole.

    Raises:
        Unsupported: a field asks for something.
        InvalidRequest: a field is no JSON.
    """
    for name, harmless in _HARMLESS.items():
        raw = getattr(body, name, msgspec.UNSET)
        if raw is msgspec.UNSET:
            continue
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(message=f"{at}{name}: {error}", param=at + name) from None
        if value is not None and not any(value == h and type(value) is type(h) for h in harmless):
            raise Unsupported(message=f"{at}{name} is not served by Baton; leave it out", param=at + name)
