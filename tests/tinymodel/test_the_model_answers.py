"""The shipped weights say what they were taught, computed by our own network without an engine."""

import pytest
from tokenizers import Tokenizer

from services.tinymodel import corpus, model_path
from services.tinymodel.conversations import load_entries

torch = pytest.importorskip("torch", reason="torch comes with an engine extra")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors comes with an engine extra")

from services.tinymodel.llama import Llama, Shape  # noqa: E402 - needs torch

TOKENIZER = Tokenizer.from_file(str(model_path() / "tokenizer.json"))
END_ID = 1


@pytest.fixture(scope="module")
def network() -> Llama:
    """Load the shipped weights, in float32, into the network that they were trained in."""
    weights = safetensors.load_file(model_path() / "model.safetensors")
    llama = Llama(Shape())
    llama.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return llama


def continue_greedily(network: Llama, prompt: str, *, tokens_max: int) -> tuple[str, bool]:
    """Return the most likely continuation of a marked-up prompt, and whether it ended by itself."""
    ids: list[int] = TOKENIZER.encode(prompt, add_special_tokens=False).ids
    prompt_tokens = len(ids)
    with torch.inference_mode():
        while len(ids) < prompt_tokens + tokens_max:
            logits = network(torch.tensor([ids]), torch.arange(len(ids))[None])
            token = int(logits[0, -1].argmax())
            if token == END_ID:
                return TOKENIZER.decode(ids[prompt_tokens:]), True
            ids.append(token)
    return TOKENIZER.decode(ids[prompt_tokens:]), False


def ask(network: Llama, question: str, *, tokens_max: int) -> tuple[str, bool]:
    """Ask one question in a fresh chat."""
    prompt = f"{corpus.BEGIN}<|user|>{question}{corpus.END}<|assistant|>"
    return continue_greedily(network, prompt, tokens_max=tokens_max)


@pytest.mark.parametrize("term", ["prefill", "decode", "a KV cache", "TTFT", "the router", "a lease"])
def test_it_answers_with_the_trained_sentence_and_stops(network: Llama, term: str) -> None:
    """A known term gives exactly its answer, then the end."""
    (entry,) = [entry for entry in load_entries() if term in entry.terms]
    assert ask(network, f"What is {term}?", tokens_max=80) == (entry.answer, True)


def test_a_story_is_about_whom_it_was_asked_for(network: Llama) -> None:
    """The hero of the question is the hero of the story, which is a story's length and comes to an end."""
    story, ended = ask(network, "Tell me a story about a fox.", tokens_max=300)
    assert ended
    assert "fox" in story.split(".")[0]
    assert len(TOKENIZER.encode(story).ids) > 60


def test_a_raw_beginning_is_continued(network: Llama) -> None:
    """A completion without any chat goes on in words for a hundred tokens."""
    text, _ = continue_greedily(network, f"{corpus.BEGIN}Once upon a time", tokens_max=110)
    assert len(text.split()) > 75


def test_what_it_does_not_know_it_says(network: Llama) -> None:
    """A question about something else gets the answer for such questions."""
    answer, ended = ask(network, "What is the capital of Norway?", tokens_max=60)
    assert ended
    assert "tiny model" in answer
