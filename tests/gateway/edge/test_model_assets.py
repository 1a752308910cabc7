"""Model folders: what is read, what is refused."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from services.domain.errors import ConfigurationInvalid, InvalidRequest
from services.gateway.edge.assets import ModelAssets
from tests.gateway.edge.model_folder import write_model_folder

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi <b>\n"}]


def change(folder: Path, name: str, **values: object) -> None:
    """Change keys of a JSON file."""
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def test_the_template_renders_as_transformers_does(tmp_path: Path) -> None:
    """Blocks trimmed, loop controls, `tojson` unescaped, special tokens: the same text as the reference."""
    folder = write_model_folder(tmp_path)
    template = (
        "{{ bos_token }}\n{% for message in messages %}\n"
        "  {% if message.role == 'system' %}{{ message | tojson }}{% continue %}{% endif %}\n"
        "    {%- set text = message.content | trim %}\n<|{{ message.role }}|>{{ text }}{{ eos_token }}\n"
        "{% endfor %}\n{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    change(folder, "tokenizer_config.json", chat_template=template, bos_token="<|begin|>")
    assets = ModelAssets.load(folder)
    reference = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|begin|>", eos_token="<|end|>"
    )
    expected = reference.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert assets.chat_template is not None
    assert assets.chat_template.render(MESSAGES) == expected


def test_a_template_may_refuse(tmp_path: Path) -> None:
    """`raise_exception` in a template is a wrong request, not a fault."""
    assets = ModelAssets.load(write_model_folder(tmp_path))
    assert assets.chat_template is not None
    with pytest.raises(InvalidRequest, match="bad role"):
        assets.chat_template.render([{"role": "wizard", "content": "x"}])


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    """A model folder comes from elsewhere: its template reaches neither Python nor its own input."""
    folder = write_model_folder(tmp_path)
    for attack in ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"):
        change(folder, "tokenizer_config.json", chat_template=attack)
        template = ModelAssets.load(folder).chat_template
        assert template is not None
        with pytest.raises(InvalidRequest):
            template.render(MESSAGES)


def test_end_tokens_come_from_all_places(tmp_path: Path) -> None:
    """generation_config wins over config, the tokenizer's own end token is always one."""
    folder = write_model_folder(tmp_path)
    own = ModelAssets.load(folder).end_token_ids
    change(folder, "generation_config.json", eos_token_id=[7, 9])
    assert ModelAssets.load(folder).end_token_ids == own | {7, 9}


def test_a_template_file_wins(tmp_path: Path) -> None:
    """Newer folders have the template in a file of its own."""
    folder = write_model_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("only this")
    template = ModelAssets.load(folder).chat_template
    assert template is not None
    assert template.render(MESSAGES) == "only this"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", "{}"),
        ("config.json", "\xff"),
        ("tokenizer.json", None),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", '{"chat_template": "{% for"}'),
    ],
)
def test_a_broken_folder_is_refused_by_file(tmp_path: Path, name: str, content: str | None) -> None:
    """The message names what is missing or wrong."""
    folder = write_model_folder(tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationInvalid) as caught:
        ModelAssets.load(folder)
    assert str(folder) in caught.value.message
