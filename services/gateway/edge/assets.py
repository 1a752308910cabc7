"""What the edge needs of a model folder: tokens, chat template, lengths.

Comes in: a folder as Hugging Face lays it out. Goes out: a `ModelAssets`.
Invariant: a folder that lacks what serving needs refuses the start and names the file.
Not here: weights; an engine reads those.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer

from services.domain.errors import ConfigurationInvalid
from services.gateway.edge.chat_template import ChatTemplate
from services.gateway.edge.vocabulary import Vocabulary

S = TypeVar("S", bound=msgspec.Struct)


class _Config(msgspec.Struct, frozen=True):
    vocab_size: int
    max_position_embeddings: int
    eos_token_id: int | list[int] | None = None


class _GenerationConfig(msgspec.Struct, frozen=True):
    eos_token_id: int | list[int] | None = None


class _AddedToken(msgspec.Struct, frozen=True):
    content: str


class _NamedTemplate(msgspec.Struct, frozen=True):
    name: str
    template: str


class _TokenizerConfig(msgspec.Struct, frozen=True):
    chat_template: str | list[_NamedTemplate] | None = None
    bos_token: str | _AddedToken | None = None
    eos_token: str | _AddedToken | None = None
    pad_token: str | _AddedToken | None = None
    unk_token: str | _AddedToken | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAssets:
    """One model, as the edge sees it.

    Attributes:
        tokenizer: of `tokenizer.json`.
        vocabulary: what its ids are.
        chat_template: None when the model has none; chat is then refused.
        prompt_ids_max: prompts may name token ids below this.
        context_tokens_max: prompt and output together, as trained.
        end_token_ids: tokens that end a sequence by themselves; no part of the text.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    chat_template: ChatTemplate | None
    prompt_ids_max: int
    context_tokens_max: int
    end_token_ids: frozenset[int]

    @staticmethod
    def load(folder: Path) -> "ModelAssets":
        """Read a model folder; blocks for as long as the disk takes.

        Args:
            folder: with config.json, tokenizer.json and, where they apply, tokenizer_config.json,
                chat_template.jinja and generation_config.json.

        Raises:
            ConfigurationInvalid: a file is missing or does not say what it must.
        """
        config = _read(folder / "config.json", _Config)
        generation = _read(folder / "generation_config.json", _GenerationConfig, _GenerationConfig())
        words = _read(folder / "tokenizer_config.json", _TokenizerConfig, _TokenizerConfig())
        tokenizer = _read_tokenizer(folder / "tokenizer.json")
        vocabulary = Vocabulary(tokenizer)
        ends = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
        end_ids = {ends} if isinstance(ends, int) else set(ends or ())
        special = {
            name: value.content if isinstance(value, _AddedToken) else value
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (value := getattr(words, name)) is not None
        }
        if (eos := special.get("eos_token")) is not None and (at := tokenizer.token_to_id(eos)) is not None:
            end_ids.add(at)
        source = _template_source(folder, words)
        try:
            template = None if source is None else ChatTemplate(source, special)
        except TemplateSyntaxError as error:
            raise ConfigurationInvalid(
                key=str(folder), message=f"{folder}: the chat template is no Jinja: {error}"
            ) from None
        return ModelAssets(
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            chat_template=template,
            prompt_ids_max=min(config.vocab_size, vocabulary.size),
            context_tokens_max=config.max_position_embeddings,
            end_token_ids=frozenset(end_ids),
        )


def _template_source(folder: Path, words: _TokenizerConfig) -> str | None:
    own_file = folder / "chat_template.jinja"
    if own_file.is_file():
        return own_file.read_text(encoding="utf-8")
    match words.chat_template:
        case str() as source:
            return source
        case None:
            return None
        case named:
            return next((t.template for t in named if t.name == "default"), None)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationInvalid(key=str(path), message=f"{path}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception for a file it cannot read
        raise ConfigurationInvalid(key=str(path), message=f"{path}: no tokenizer: {error}") from None


def _read(path: Path, kind: type[S], default: S | None = None) -> S:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        if default is not None:
            return default
        raise ConfigurationInvalid(key=str(path), message=f"{path}: missing") from None
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise ConfigurationInvalid(key=str(path), message=f"{path}: {error}") from None
