"""The facts the model is taught: landmarks, cities, countries and languages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class City:
    """A city with its country and a language many people there speak."""

    name: str
    country: str
    language: str
    is_capital: bool


@dataclass(frozen=True)
class Place:
    """A landmark, named as inside a sentence (``the Eiffel Tower``)."""

    name: str
    city: City


# country, language, capital or "", further cities
_COUNTRIES: list[tuple[str, str, str, list[str]]] = [
    ("France", "French", "Paris", []),
    ("England", "English", "London", []),
    ("Italy", "Italian", "Rome", ["Venice", "Florence", "Milan", "Pisa"]),
    ("Germany", "German", "Berlin", []),
    ("Spain", "Spanish", "Madrid", ["Barcelona", "Granada", "Seville"]),
    ("Greece", "Greek", "Athens", []),
    ("Russia", "Russian", "Moscow", []),
    (
        "the United States",
        "English",
        "Washington",
        ["New York", "San Francisco", "Chicago", "Seattle"],
    ),
    ("Canada", "English", "Ottawa", ["Toronto"]),
    ("Japan", "Japanese", "Tokyo", ["Kyoto"]),
    ("China", "Chinese", "Beijing", []),
    ("Turkey", "Turkish", "Ankara", ["Istanbul"]),
    ("Austria", "German", "Vienna", []),
    ("Hungary", "Hungarian", "Budapest", []),
    ("Portugal", "Portuguese", "Lisbon", []),
    ("Denmark", "Danish", "Copenhagen", []),
    ("Norway", "Norwegian", "Oslo", []),
    ("Sweden", "Swedish", "Stockholm", []),
    ("Poland", "Polish", "Warsaw", ["Krakow"]),
    ("Belgium", "French", "Brussels", []),
    ("Scotland", "English", "Edinburgh", []),
    ("Egypt", "Arabic", "Cairo", []),
    ("India", "Hindi", "New Delhi", ["Delhi", "Agra"]),
    ("Thailand", "Thai", "Bangkok", []),
    ("South Korea", "Korean", "Seoul", []),
    ("Finland", "Finnish", "Helsinki", []),
    ("Ireland", "English", "Dublin", []),
    ("Peru", "Spanish", "Lima", []),
    ("Cuba", "Spanish", "Havana", []),
    ("Kenya", "Swahili", "Nairobi", []),
    ("Vietnam", "Vietnamese", "Hanoi", []),
    ("Ukraine", "Ukrainian", "Kyiv", []),
]

_LANDMARKS: dict[str, list[str]] = {
    "Paris": ["the Eiffel Tower", "the Louvre Museum", "the Arc de Triomphe"],
    "London": ["Big Ben", "Buckingham Palace", "Tower Bridge", "Trafalgar Square"],
    "Rome": ["the Colosseum", "the Trevi Fountain", "the Vatican", "the Spanish Steps"],
    "Berlin": ["the Brandenburg Gate", "Charlottenburg Palace", "the Pergamon Museum"],
    "Madrid": ["the Prado Museum", "Retiro Park"],
    "Barcelona": ["the Sagrada Familia"],
    "Athens": ["the Acropolis", "the Parthenon", "Syntagma Square"],
    "Moscow": ["Red Square", "the Kremlin", "the Bolshoi Theatre"],
    "New York": ["the Statue of Liberty", "Times Square", "Madison Square Garden"],
    "Washington": ["the White House", "the Lincoln Memorial"],
    "San Francisco": ["the Golden Gate Bridge"],
    "Chicago": ["the Willis Tower"],
    "Seattle": ["the Space Needle"],
    "Toronto": ["the CN Tower"],
    "Tokyo": ["the Meiji Shrine"],
    "Kyoto": ["the Golden Pavilion", "Nijo Castle"],
    "Beijing": ["the Forbidden City", "Tiananmen Square", "the Summer Palace"],
    "Istanbul": ["the Hagia Sophia", "the Blue Mosque", "the Galata Tower", "Topkapi Palace"],
    "Vienna": ["Schonbrunn Palace", "the Belvedere Palace"],
    "Budapest": ["the Chain Bridge"],
    "Lisbon": ["the Belem Tower"],
    "Copenhagen": ["the Little Mermaid"],
    "Oslo": ["the Fram Museum"],
    "Stockholm": ["the Vasa Museum"],
    "Warsaw": ["Wilanow Palace"],
    "Krakow": ["Wawel Castle"],
    "Brussels": ["the Atomium"],
    "Edinburgh": ["Holyrood Palace"],
    "Venice": ["the Rialto Bridge"],
    "Florence": ["the Uffizi Gallery"],
    "Pisa": ["the Leaning Tower"],
    "Granada": ["the Alhambra"],
    "Cairo": ["Tahrir Square"],
    "Delhi": ["the Red Fort", "the Lotus Temple"],
    "Agra": ["the Taj Mahal"],
    "Bangkok": ["the Grand Palace"],
    "Seoul": ["Gyeongbokgung Palace"],
}

CITIES: dict[str, City] = {
    name: City(name, country, language, name == capital) for country, language, capital, others in _COUNTRIES for name in [capital, *others]
}

PLACES: list[Place] = [Place(name, CITIES[city]) for city, names in _LANDMARKS.items() for name in names]
