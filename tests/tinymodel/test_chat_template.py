"""The chat template that is shipped renders chats as the model was taught, and refuses what it was not."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.tinymodel import corpus, model_path
from services.tinymodel.conversations import draw_conversation, load_entries


def raise_exception(message: str) -> None:
    """Do what transformers does when a template calls it."""
    raise TemplateError(message)


def render(messages: list[dict[str, object]], *, add_generation_prompt: bool) -> str:
    """Render with the settings that transformers uses."""
    config = json.loads((model_path() / "tokenizer_config.json").read_text(encoding="utf-8"))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    template = environment.from_string(config["chat_template"])
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_a_chat_of_several_turns_renders_to_the_golden_text() -> None:
    """System, user and assistant each get their mark; the open answer comes last."""
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is prefill?"},
        {"role": "assistant", "content": "The first phase."},
        {"role": "user", "content": "  And\ndecode? "},
    ]
    assert render(messages, add_generation_prompt=True) == (
        "<|begin|><|system|>Be brief.<|end|><|user|>What is prefill?<|end|>"
        "<|assistant|>The first phase.<|end|><|user|>  And\ndecode? <|end|><|assistant|>"
    )


def test_without_a_generation_prompt_no_answer_is_opened() -> None:
    """A finished chat ends with the end of its last message."""
    assert render([{"role": "user", "content": "Hi"}], add_generation_prompt=False) == (
        "<|begin|><|user|>Hi<|end|>"
    )


@pytest.mark.parametrize("role", ["tool", "developer", "User", ""])
def test_an_unknown_role_is_refused(role: str) -> None:
    """A role that the model never saw is an error, not silently something else."""
    with pytest.raises(TemplateError, match="unknown role"):
        render([{"role": role, "content": "x"}], add_generation_prompt=True)


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "x"}], 3])
def test_content_that_is_no_text_is_refused(content: object) -> None:
    """Parts and nulls must be made text before: the template would print their Python form."""
    with pytest.raises(TemplateError, match="content must be text"):
        render([{"role": "user", "content": content}], add_generation_prompt=True)


@given(seed=st.integers(0, 2**32), exchange_count=st.integers(1, 5))
def test_the_model_was_taught_what_the_template_renders(seed: int, exchange_count: int) -> None:
    """Chats of the training text are exactly what the template makes of the same turns."""
    turns = draw_conversation(Random(seed), load_entries(), exchange_count=exchange_count)
    messages: list[dict[str, object]] = [{"role": turn.role, "content": turn.text} for turn in turns]
    assert render(messages, add_generation_prompt=False) == corpus.render_chat(turns)
