"""Chat messages as a chat template wants them.

Comes in: parsed messages. Goes out: roles and plain text. Invariant: nothing but text gets through.
"""

from services.domain.errors import InvalidRequest, Unsupported
from services.gateway.edge.openai_calls import ChatMessage, ContentPart
from services.gateway.edge.unserved import refuse_unserved

_TEMPLATE_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""OpenAI calls the system role "developer" for newer models; templates know "system"."""


def flatten_messages(messages: list[ChatMessage]) -> list[dict[str, str]]:
    """Turn messages into roles and text.

    Raises:
        Unsupported: a role or a part that is not served (tools, images, audio).
        InvalidRequest: a message without text.
    """
    return [_flatten(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _flatten(message: ChatMessage, at: str) -> dict[str, str]:
    role = _TEMPLATE_ROLES.get(message.role)
    if role is None:
        raise Unsupported(message=f"{at}.role: {message.role!r} is not served by Baton", param=f"{at}.role")
    refuse_unserved(message, f"{at}.")
    match message.content:
        case str() as text:
            pass
        case list() as parts:
            text = "\n".join(_text_of(part, f"{at}.content[{i}]") for i, part in enumerate(parts))
        case None:
            raise InvalidRequest(message=f"{at}.content: required, but missing", param=f"{at}.content")
    flat = {"role": role, "content": text}
    return flat | {"name": message.name} if message.name is not None else flat


def _text_of(part: ContentPart, at: str) -> str:
    if part.type != "text":
        raise Unsupported(message=f"{at}: parts of type {part.type!r} are not served", param=f"{at}.type")
    if part.text is None:
        raise InvalidRequest(message=f"{at}.text: required, but missing", param=f"{at}.text")
    return part.text
