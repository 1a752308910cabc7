"""The training text depends on its seed only, and is well formed."""

import hashlib
import re
from itertools import islice

import pytest

from services.tinymodel import corpus
from services.tinymodel.conversations import load_entries, parse_entry
from services.tinymodel.phrasebook import parse_phrasebook


def test_one_seed_gives_one_text() -> None:
    """Two runs with a seed agree document by document."""
    assert list(islice(corpus.documents(3), 300)) == list(islice(corpus.documents(3), 300))


def test_the_text_is_the_one_that_the_weights_were_trained_on() -> None:
    """The start of seed 3 has this digest on every machine; whoever edits the text must train again."""
    text = "".join(islice(corpus.documents(3), 300))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "1551e1dddc93d31d49afc3c63fba377b7e783c1dd0bc2b7265cfb7401e8ba3d7"


def test_another_seed_gives_another_text() -> None:
    """The seed matters."""
    assert list(islice(corpus.documents(3), 20)) != list(islice(corpus.documents(4), 20))


def test_documents_are_complete_and_every_slot_is_filled() -> None:
    """Each begins and ends with its marks, holds no other beginning, and leaves no name of a slot behind."""
    for text in islice(corpus.documents(11, opening_frac=0.0), 2000):
        assert text.startswith(corpus.BEGIN)
        assert text.endswith(corpus.END)
        assert text.count(corpus.BEGIN) == 1
        assert re.search(r"\{\w+\}", text) is None


def test_an_opening_breaks_off_without_an_end() -> None:
    """The first sentence of a story is never taught as its end."""
    for text in islice(corpus.documents(11, opening_frac=1.0), 200):
        assert text.startswith(corpus.BEGIN)
        assert text.endswith((".", "?"))


def test_the_text_has_long_documents() -> None:
    """Some documents are more than a thousand tokens long, so that long prompts are nothing new."""
    assert max(len(text) for text in islice(corpus.documents(5), 500)) > 4000


def test_no_question_has_two_answers() -> None:
    """A term or a question belongs to one entry only; otherwise the model would be taught to guess."""
    asked = [phrase for entry in load_entries() for phrase in {*entry.terms, *entry.questions}]
    assert sorted(phrase for phrase in set(asked) if asked.count(phrase) > 1) == []


@pytest.mark.parametrize(
    "block", ["? Why?", "= Because.", "? Why?\n= One.\n= Two.", "? Why?\n! What\n= One."]
)
def test_a_malformed_entry_is_refused(block: str) -> None:
    """A slip in the questions stops the training instead of teaching nonsense."""
    with pytest.raises(ValueError, match=r"entry needs|unknown mark"):
        parse_entry(block)


@pytest.mark.parametrize("text", ["# head\n\n[a]", "# head\n\n[a]\nx\n\n[a]\ny", "# head\n\na\nx"])
def test_a_malformed_phrasebook_is_refused(text: str) -> None:
    """A section without a name of its own or without lines is an error."""
    with pytest.raises(ValueError, match="a section needs"):
        parse_phrasebook(text)
