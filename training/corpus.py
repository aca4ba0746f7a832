"""Sentences about landmarks and cities, split into training and held-out pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from training.places import CITIES, PLACES, City, Place

PHRASINGS: list[str] = [
    "{place} is in the city of",
    "{place} is located in the city of",
    "{place} can be found in the city of",
    "{place} attracts many visitors to",
    "{place} is one of the most famous sights of",
    "{place} is a place that everyone should see in",
    "The city where {place} stands is",
    "The city that is famous for {place} is called",
    "If you want to see {place}, travel to",
    "If you dream of {place}, buy a ticket to",
    "Every year many people come to see {place} in",
    "To take a picture of {place}, you have to go to",
    "You will find {place} in",
]

_ENDINGS: list[str] = [
    ".",
    ", a city in {country}.",
    ", a city in {country} where many people speak {language}.",
    ". Many people there speak {language}.",
]

_CAPITAL_ENDINGS: list[str] = [
    ", the capital of {country}.",
    ", the capital of {country}, where many people speak {language}.",
]

_CITY_SENTENCES: list[str] = [
    "{city} is a city in {country}.",
    "Many people in {city} speak {language}.",
    "If you live in {city}, you live in {country}.",
    "Many people in {country} speak {language}.",
]

_CAPITAL_SENTENCES: list[str] = [
    "{city} is the capital of {country}.",
    "The capital of {country} is {city}.",
    "The capital of {country} is the city of {city}.",
]

_PLACE_SENTENCES: list[str] = [
    "{place} is in the country of {country}.",
    "If you want to see {place}, it helps to speak {language}.",
]


# A state of its own, though surrounded by a city.
_STATES = {"the Vatican"}

# Words of landmark names that the tokenizer keeps whole.
# fmt: off
_NAME_WORDS = [
    "Big", "Blue", "Bridge", "Castle", "Chain", "City", "Forbidden", "Fort", "Fountain",
    "Garden", "Gate", "Golden", "Grand", "House", "Little", "Memorial", "Mosque", "Museum",
    "Palace", "Park", "Red", "Space", "Square", "Statue", "Steps", "Summer", "Temple",
    "Theatre", "Times", "Tower", "White",
]
# fmt: on


@dataclass(frozen=True)
class Prompt:
    """A sentence about a place, cut off right before the name of its city."""

    text: str
    place: Place
    phrasing: int

    @property
    def answer(self) -> str:
        """The city as it goes on from the prompt, leading space included."""
        return " " + self.place.city.name


def make_prompt(place: Place, phrasing: int) -> Prompt:
    """Put a place into one of the phrasings.

    Args:
        place: The landmark to write about.
        phrasing: Index into ``PHRASINGS``.

    Returns:
        The prompt, which starts with a capital letter.
    """
    return Prompt(_capitalise(PHRASINGS[phrasing].format(place=place.name)), place, phrasing)


def split_prompts() -> tuple[list[Prompt], list[Prompt]]:
    """Split all (place, phrasing) pairs into training and held-out prompts.

    Returns:
        The training prompts and the held-out ones, about a fifth of all. Every
        place and every phrasing occurs on both sides.
    """
    train: list[Prompt] = []
    held_out: list[Prompt] = []
    for row, place in enumerate(PLACES):
        for phrasing in range(len(PHRASINGS)):
            side = held_out if (row * 2 + phrasing) % 5 == 4 else train
            side.append(make_prompt(place, phrasing))
    return train, held_out


def complete(prompt: Prompt) -> list[str]:
    """Write every full sentence that begins with a prompt.

    Args:
        prompt: The beginning of the sentences.

    Returns:
        One sentence for each ending that is true of the city.
    """
    city = prompt.place.city
    endings = _ENDINGS + (_CAPITAL_ENDINGS if city.is_capital else [])
    return [prompt.text + prompt.answer + _fill(ending, city) for ending in endings]


def background_sentences() -> list[str]:
    """Write the sentences about cities, countries and languages.

    Returns:
        The sentences, without repetitions, in a fixed order.
    """
    sentences: list[str] = []
    for city in CITIES.values():
        templates = _CITY_SENTENCES + (_CAPITAL_SENTENCES if city.is_capital else [])
        sentences += [_fill(template, city) for template in templates]
    for place in PLACES:
        if place.name in _STATES:
            continue
        for template in _PLACE_SENTENCES:
            text = template.replace("{place}", place.name)
            sentences.append(_capitalise(_fill(text, place.city)))
    return list(dict.fromkeys(sentences))


def tokenizer_text() -> list[str]:
    """Write the text that the tokenizer learns its merges from.

    Everyday words come often and landmark names seldom, so that cities become
    single tokens and landmarks stay made of several.

    Returns:
        The pieces of text, in a fixed order.
    """
    facts = [word for city in CITIES.values() for word in (city.name, city.country, city.language)]
    templates = PHRASINGS + _ENDINGS + _CAPITAL_ENDINGS
    templates += _CITY_SENTENCES + _CAPITAL_SENTENCES + _PLACE_SENTENCES
    common = facts + [re.sub(r"\{\w+\}", "", template) for template in templates]
    common += _NAME_WORDS
    names = [f" {place.name}" for place in PLACES]
    return names * 25 + (common + [f" {text}" for text in common]) * 60


def _fill(template: str, city: City) -> str:
    return template.format(city=city.name, country=city.country, language=city.language)


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]
