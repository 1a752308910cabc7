"""Compose the training text of the tiny model, deterministically, from the grammar and the questions.

In: a seed. Out: an endless stream of documents with their marks, `<|begin|> ... <|end|>`: raw stories, raw
notes about serving, and chats of one to many turns, from some tens to about 1,500 tokens; the chat
template. Invariant: the same seed gives the same documents on any machine, and a chat is rendered exactly as
the template renders it. Not here: tokenizing and training (`train`), what is said (`stories`,
`conversations`, `questions.txt`).
"""

from collections.abc import Iterator, Sequence
from random import Random

from services.tinymodel import conversations, stories
from services.tinymodel.conversations import Entry, Turn

BEGIN = "<|begin|>"
END = "<|end|>"
MARK_OF_ROLE: dict[str, str] = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL_TOKENS: tuple[str, ...] = (BEGIN, END, *MARK_OF_ROLE.values())

# `raise_exception` is what transformers, and so vLLM, give to a template; other renderers must provide it.
CHAT_TEMPLATE = (
    "{{- '<|begin|>' }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('unknown role: ' ~ message['role']) }}"
    "{%- endif %}"
    "{%- if message['content'] is not string %}"
    "{{- raise_exception('content must be text') }}"
    "{%- endif %}"
    "{{- '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def render_chat(turns: Sequence[Turn]) -> str:
    """Render a finished chat as the chat template does, special tokens written out."""
    return BEGIN + "".join(f"{MARK_OF_ROLE[turn.role]}{turn.text}{END}" for turn in turns)


def documents(seed: int, *, opening_frac: float = 0.4) -> Iterator[str]:
    """Yield training documents without end; each begins with `<|begin|>`.

    Args:
        seed: What all draws depend on.
        opening_frac: How many of the documents, from 0 to 1, are only the opening of an asked-for story.
            They are short, so they teach quickly to find the hero in the question. They break off without
            `<|end|>`; all others end with it.
    """
    rng = Random(seed)
    entries = conversations.load_entries()
    while True:
        if rng.random() < opening_frac:
            yield render_chat(conversations.draw_opening(rng)).removesuffix(END)
        else:
            yield draw_document(rng, entries)


def draw_document(rng: Random, entries: tuple[Entry, ...]) -> str:
    """Draw one document; about two thirds of them are chats, since that is how the model is mostly used."""
    chance = rng.random()
    if chance < 0.17:
        chapter_count = rng.choices((1, 2, 3, 6), (6, 2, 2, 1))[0]
        return f"{BEGIN}{stories.tell_story(rng, chapter_count=chapter_count)}{END}"
    if chance < 0.25:
        return f"{BEGIN}{draw_notes(rng, entries)}{END}"
    if chance < 0.27:
        noise = conversations.draw_noise(rng, word_count=rng.randrange(5, 60))
        after = f"{noise} {noise}" if rng.random() < 0.5 else stories.tell_story(rng)
        return f"{BEGIN}{noise} {after}{END}"
    exchange_count = rng.choices((1, 2, 3, 4, 6, 12), (14, 3, 2, 2, 1, 1))[0]
    return render_chat(conversations.draw_conversation(rng, entries, exchange_count=exchange_count))


def draw_notes(rng: Random, entries: tuple[Entry, ...]) -> str:
    """Draw a page of notes: some answers one after another, as running text."""
    about_serving = [entry for entry in entries if entry.terms]
    return " ".join(entry.answer for entry in rng.sample(about_serving, rng.randrange(1, 7)))
