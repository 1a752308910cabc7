"""Write little stories from a seeded grammar.

In: a `random.Random` and, optionally, who the story is about. Out: plain English text, one paragraph for
each chapter. Invariant: the same generator state gives the same story on any machine (only tuples are
drawn from, never sets). Not here: questions and answers, chat turns, tokens.

Every sentence was written for this project and carries its licence (Apache-2.0).
"""

from dataclasses import dataclass
from random import Random

from services.tinymodel.phrasebook import load_phrasebook

_BOOK = load_phrasebook("stories.txt")
KINDS = _BOOK.all_of("kinds")
KINDS_HE = _BOOK.all_of("kinds_he")
KINDS_SHE = _BOOK.all_of("kinds_she")
NAMES_HE = _BOOK.all_of("names_he")
NAMES_SHE = _BOOK.all_of("names_she")
PLACES = _BOOK.all_of("places")
TRAITS = _BOOK.all_of("traits")
THINGS = _BOOK.all_of("things")
FOODS = _BOOK.all_of("foods")
WEATHERS = _BOOK.all_of("weathers")
SPOTS = _BOOK.all_of("spots")
OPENINGS = _BOOK.all_of("openings")
LIKINGS = _BOOK.all_of("likings")
CLOSINGS = _BOOK.all_of("closings")
NEXT_DAYS = _BOOK.all_of("next_days")
PLOTS = _BOOK.with_prefix("plot ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hero:
    """Who a story is about: a kind of creature, in words, and a name if one was asked for."""

    kind: str
    name: str | None = None
    friend_kind: str | None = None
    place: str | None = None


def article(noun: str) -> str:
    """Return `a` or `an` for a noun by its first letter (good enough for the words of this grammar)."""
    return "an" if noun[0] in "aeiou" else "a"


def draw_hero(rng: Random) -> Hero:
    """Draw a hero; one in twenty is of an invented kind, so that a reader learns to copy the word."""
    return Hero(kind=invent_word(rng) if rng.random() < 1 / 20 else rng.choice(KINDS))


def invent_word(rng: Random) -> str:
    """Make up a pronounceable word of two or three syllables."""
    syllables = [rng.choice("bdfgklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
    return "".join(syllables) + rng.choice(("", "n", "l", "r", "x", "t", "ck", "ling"))


def tell_story(rng: Random, *, hero: Hero | None = None, chapter_count: int = 1) -> str:
    """Write a story of `chapter_count` chapters (about 150 tokens each), joined by blank lines."""
    who = hero or draw_hero(rng)
    slots = _hero_slots(rng, who)
    plots = rng.sample(PLOTS, chapter_count)
    chapters: list[str] = []
    for number, plot in enumerate(plots):
        slots |= _chapter_slots(rng, who, hero_name=slots["name"])
        sentences = [rng.choice(OPENINGS), rng.choice(LIKINGS)] if number == 0 else [rng.choice(NEXT_DAYS)]
        if number == 0 and rng.random() < 0.6:
            sentences.append(rng.choice(WEATHERS))
        sentences += [rng.choice(choices) for choices in plot]
        if number == chapter_count - 1:
            sentences.append(rng.choice(CLOSINGS))
        chapters.append(" ".join(sentence.format(**slots) for sentence in sentences))
    return "\n\n".join(chapters)


def _hero_slots(rng: Random, hero: Hero) -> dict[str, str]:
    trait = rng.choice(TRAITS)
    name = hero.name or _draw_name(rng, hero.kind)
    return {
        "name": name,
        "kind": hero.kind,
        "trait": trait,
        "a": article(trait),
        "place": hero.place or rng.choice(PLACES),
        "food": rng.choice(FOODS),
        **_pronouns("", name),
    }


def _chapter_slots(rng: Random, hero: Hero, *, hero_name: str) -> dict[str, str]:
    friend_kind = hero.friend_kind or rng.choice([kind for kind in KINDS if kind != hero.kind])
    friend = _draw_name(rng, friend_kind)
    while friend == hero_name:
        friend = _draw_name(rng, friend_kind)
    thing = rng.choice(THINGS)
    spot, spot2, spot3 = rng.sample(SPOTS, 3)
    return {
        "friend": friend,
        "fkind": friend_kind,
        "fa": article(friend_kind),
        "thing": thing,
        "a2": article(thing),
        "spot": spot,
        "spot2": spot2,
        "spot3": spot3,
        "spot4": f"somewhere {rng.choice(SPOTS)}",
        **_pronouns("f", friend),
    }


def _draw_name(rng: Random, kind: str) -> str:
    if kind in KINDS_HE:
        return rng.choice(NAMES_HE)
    return rng.choice(NAMES_SHE if kind in KINDS_SHE else NAMES_HE + NAMES_SHE)


def _pronouns(prefix: str, name: str) -> dict[str, str]:
    subject, possessive, object_ = ("she", "her", "her") if name in NAMES_SHE else ("he", "his", "him")
    return {
        f"{prefix}he": subject,
        f"{prefix}He": subject.capitalize(),
        f"{prefix}his": possessive,
        f"{prefix}him": object_,
    }
