"""Make chats that the tiny model learns from: questions about serving, requests for stories, noise.

In: a `random.Random` and the entries of `questions.txt`. Out: conversations, lists of `Turn`, each ending
with an answer. Invariant: the same generator state gives the same conversation; the answer to a known
question is always the same text. Not here: how a chat becomes tokens (`corpus`), the stories themselves
(`stories`).

Every sentence was written for this project and carries its licence (Apache-2.0).
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from services.tinymodel import stories
from services.tinymodel.phrasebook import load_phrasebook

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a chat."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One answer, the ways to ask for it, and what follows when more is asked for."""

    terms: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    more: str | None


UNKNOWN = "I am only a tiny model and do not know that. Ask me what prefill is, or ask me for a story."
NO_MORE = "That is all I know about it. Ask me something else if you like."

_BOOK = load_phrasebook("phrases.txt")
TERM_QUESTIONS = _BOOK.all_of("term_questions")
QUESTION_FRAMES = _BOOK.all_of("question_frames")
MORE_QUESTIONS = _BOOK.all_of("more_questions")
STORY_REQUESTS = _BOOK.all_of("story_requests")
PLAIN_STORY_REQUESTS = _BOOK.all_of("plain_story_requests")
SYSTEM_TEXTS = _BOOK.all_of("system_texts")
OTHER_QUESTIONS = _BOOK.all_of("other_questions")
OTHER_NAMES = _BOOK.all_of("other_names")
REPEAT_REQUESTS = _BOOK.all_of("repeat_requests")
HERO_REQUESTS = _BOOK.all_of("hero_requests")
NAME_REQUESTS = _BOOK.all_of("name_requests")
NOISE_WORDS = _BOOK.all_of("noise_words")


def load_entries() -> tuple[Entry, ...]:
    """Parse `questions.txt`, whose head describes its marks.

    Raises:
        ValueError: a line has an unknown mark, or an entry has no answer or cannot be asked for.
    """
    text = (Path(__file__).parent / "questions.txt").read_text(encoding="utf-8")
    blocks = [block for block in text.split("\n\n") if not block.startswith("#")]
    return tuple(parse_entry(block) for block in blocks)


def parse_entry(block: str) -> Entry:
    """Parse one entry: lines that begin with a mark of `@?=+` and a space."""
    lines: dict[str, list[str]] = {"@": [], "?": [], "=": [], "+": []}
    for line in block.strip().splitlines():
        if line[:1] not in lines or line[1:2] != " ":
            raise ValueError(f"unknown mark in line {line!r}")
        lines[line[0]].append(line[2:].strip())
    terms = tuple(term.strip() for line in lines["@"] for term in line.split(";"))
    if len(lines["="]) != 1 or not (terms or lines["?"]):
        raise ValueError(f"an entry needs one answer and a way to ask for it: {block!r}")
    more = lines["+"][0] if lines["+"] else None
    return Entry(terms=terms, questions=tuple(lines["?"]), answer=lines["="][0], more=more)


def draw_conversation(rng: Random, entries: tuple[Entry, ...], *, exchange_count: int) -> list[Turn]:
    """Draw a chat of `exchange_count` questions with their answers, sometimes after a system message."""
    turns: list[Turn] = []
    if rng.random() < 0.3:
        turns.append(Turn(role="system", text=_draw_system_text(rng)))
    more: str | None = None
    for number in range(exchange_count):
        chance = rng.random()
        if number > 0 and chance < 0.25:
            question, answer, more = rng.choice(MORE_QUESTIONS), more or NO_MORE, None
        elif chance < 0.45:
            entry = rng.choice(entries)
            question, answer, more = ask(rng, entry), entry.answer, entry.more
        elif chance < 0.80:
            question, answer = draw_story_exchange(rng)
            more = None
        elif chance < 0.95:
            question, answer = _draw_copying(rng)
            more = None
        else:
            question, answer, more = _draw_unknown(rng), UNKNOWN, None
        turns += [Turn(role="user", text=question), Turn(role="assistant", text=answer)]
    return turns


def ask(rng: Random, entry: Entry) -> str:
    """Phrase a question that `entry` answers, sometimes carelessly typed."""
    if entry.terms and (not entry.questions or rng.random() < 0.6):
        question = rng.choice(TERM_QUESTIONS).format(rng.choice(entry.terms))
    else:
        question = rng.choice(QUESTION_FRAMES).format(rng.choice(entry.questions))
    return _type_carelessly(rng, question)


def draw_story_exchange(rng: Random) -> tuple[str, str]:
    """Draw a request for a story and a story that keeps to it: who, where and how long.

    The answer first repeats what was asked for, which is far easier to learn than keeping to it at once.
    """
    length, chapter_count = rng.choice(
        (("", 1), ("", 1), ("", 1), ("short ", 1), ("little ", 1), ("long ", 3))
    )
    if rng.random() < 0.15:
        request = rng.choice(PLAIN_STORY_REQUESTS).format(long=length)
        story = stories.tell_story(rng, chapter_count=chapter_count)
        return _type_carelessly(rng, request), f"Here is a {length}story.\n\n{story}"
    hero = stories.draw_hero(rng)
    who = f"{stories.article(hero.kind)} {hero.kind}"
    chance = rng.random()
    if chance < 0.12:
        name = rng.choice(stories.NAMES_HE + stories.NAMES_SHE)
        hero, who = stories.Hero(kind=hero.kind, name=name), f"{who} named {name}"
    elif chance < 0.24:
        friend = rng.choice([kind for kind in stories.KINDS if kind != hero.kind])
        hero, who = (
            stories.Hero(kind=hero.kind, friend_kind=friend),
            f"{who} and {stories.article(friend)} {friend}",
        )
    elif chance < 0.36:
        place = rng.choice(stories.PLACES)
        hero, who = stories.Hero(kind=hero.kind, place=place), f"{who} {place}"
    request = rng.choice(STORY_REQUESTS).format(long=length, who=who)
    story = stories.tell_story(rng, hero=hero, chapter_count=chapter_count)
    return _type_carelessly(rng, request), f"Here is a {length}story about {who}.\n\n{story}"


def draw_opening(rng: Random) -> list[Turn]:
    """Draw a request for a story and no more than the story's first sentence, or a question about its hero."""
    if rng.random() < 0.4:
        question, answer = _draw_hero_exchange(rng)
    else:
        question, answer = draw_story_exchange(rng)
        answer = answer[: answer.index(".", answer.index("\n\n")) + 1]
    return [Turn(role="user", text=question), Turn(role="assistant", text=answer)]


def draw_noise(rng: Random, *, word_count: int) -> str:
    """Draw words without meaning, as load tools and careless clients send them."""
    pool = NOISE_WORDS + tuple(stories.invent_word(rng) for _ in range(8))
    return " ".join(rng.choice(pool) for _ in range(word_count))


def _draw_system_text(rng: Random) -> str:
    text = " ".join(rng.sample(SYSTEM_TEXTS, rng.choice((1, 1, 2))))
    if rng.random() < 0.25:
        text += " " + rng.choice((stories.tell_story(rng), draw_noise(rng, word_count=rng.randrange(10, 90))))
    return text


def _draw_hero_exchange(rng: Random) -> tuple[str, str]:
    kind = rng.choice(stories.KINDS)
    who = f"{stories.article(kind)} {kind}"
    question = rng.choice(HERO_REQUESTS).format(who)
    return _type_carelessly(
        rng, question
    ), f"I know a story about {who}. Shall I tell you a story about {who}?"


def _draw_copying(rng: Random) -> tuple[str, str]:
    """Draw an exchange whose answer takes words from the question: what it is about a story must do as well."""
    chance = rng.random()
    if chance < 0.75:
        return _draw_hero_exchange(rng)
    if chance < 0.85:
        name = rng.choice(stories.NAMES_HE + stories.NAMES_SHE)
        greeting = f"Hello, {name}! Ask me what prefill is, or ask me for a story."
        return rng.choice(NAME_REQUESTS).format(name), greeting
    words = [
        rng.choice((rng.choice(stories.KINDS), rng.choice(stories.THINGS)))
        for _ in range(rng.randrange(2, 9))
    ]
    text = " ".join(words) if rng.random() < 0.5 else draw_noise(rng, word_count=rng.randrange(2, 20))
    return rng.choice(REPEAT_REQUESTS).format(text), text


def _draw_unknown(rng: Random) -> str:
    chance = rng.random()
    if chance < 0.3:
        return draw_noise(rng, word_count=rng.randrange(1, 60))
    if chance < 0.4:
        return rng.choice(TERM_QUESTIONS).format(f"{rng.choice(('a', 'the'))} {stories.invent_word(rng)}")
    question = rng.choice(OTHER_QUESTIONS)
    return _type_carelessly(
        rng, question.format(*(rng.choice(OTHER_NAMES) for _ in range(question.count("{}"))))
    )


def _type_carelessly(rng: Random, text: str) -> str:
    chance = rng.random()
    if chance < 0.12:
        return text.lower()
    if chance < 0.2:
        return text.rstrip("?.!")
    if chance < 0.25:
        return text.lower().rstrip("?.!")
    if chance < 0.28:
        return f"{text}\n"
    return text[0].upper() + text[1:]
