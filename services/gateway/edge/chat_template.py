"""A model's chat template: messages to the prompt text that the model was trained on.

Comes in: the Jinja source of `tokenizer_config.json` and checked messages. Goes out: text.
Invariant: a template runs in a sandbox that cannot change its input, with the names that templates
expect of Hugging Face `transformers` 5 (trim_blocks, lstrip_blocks, loop controls, `raise_exception`,
`strftime_now`, a `tojson` that does not escape HTML).
Not here: tokens.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.domain.errors import InvalidRequest

Message = Mapping[str, str]
"""Keys "role" and "content", perhaps "name"."""


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile.

        Args:
            source: Jinja text.
            special_tokens: names such as "bos_token" and the text each stands for.

        Raises:
            jinja2.TemplateSyntaxError: the source is no template.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message]) -> str:
        """Render messages and the opening of the assistant's turn.

        Raises:
            InvalidRequest: the template refuses these messages (wrong order of roles, for example).
        """
        try:
            return self._template.render(
                messages=[dict(m) for m in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special_tokens,
            )
        except TemplateError as error:
            raise InvalidRequest(
                message=f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
