"""The tokenizer is lossless, and its special tokens have the ids that the config names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.tinymodel import model_path
from services.tinymodel.corpus import SPECIAL_TOKENS

TOKENIZER = Tokenizer.from_file(str(model_path() / "tokenizer.json"))


@given(text=st.text(max_size=200))
def test_any_text_survives_the_round_trip(text: str) -> None:
    """Decoding the ids of a text gives the text, for every Unicode string."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(data=st.binary(max_size=200))
def test_any_bytes_survive_the_round_trip(data: bytes) -> None:
    """Bytes carried as Latin-1 text come back unchanged, control characters and line ends included."""
    ids = TOKENIZER.encode(data.decode("latin-1"), add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False).encode("latin-1") == data


@given(text=st.text(alphabet="<|>abegindusr ", max_size=60))
def test_text_that_looks_like_a_mark_survives_as_well(text: str) -> None:
    """Marks inside a text, whole or broken, are not lost when special tokens are kept."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_every_byte_has_a_token_of_its_own() -> None:
    """256 one-character tokens stand for the bytes, so no text can meet an unknown token."""
    vocabulary = TOKENIZER.get_vocab()
    assert len([token for token in vocabulary if len(token) == 1]) == 256


def test_special_tokens_come_first_and_the_vocabulary_fits_the_config() -> None:
    """Ids 0 to 4 are the marks in their order, and every id is within the embedding."""
    assert [TOKENIZER.token_to_id(mark) for mark in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    config = json.loads((model_path() / "config.json").read_text(encoding="utf-8"))
    assert TOKENIZER.get_vocab_size() == config["vocab_size"]


@pytest.mark.parametrize("mark", SPECIAL_TOKENS)
def test_marks_are_left_out_of_an_answer(mark: str) -> None:
    """Decoding for a client leaves the marks out."""
    ids = TOKENIZER.encode(f"{mark}word", add_special_tokens=False).ids
    assert TOKENIZER.decode(ids) == "word"


def test_a_raw_prompt_begins_with_the_begin_mark() -> None:
    """A completion prompt is encoded as a document begins: the mark, then the text."""
    encoding = TOKENIZER.encode("Once upon a time")
    assert encoding.tokens[0] == "<|begin|>"
    assert TOKENIZER.decode(encoding.ids) == "Once upon a time"
