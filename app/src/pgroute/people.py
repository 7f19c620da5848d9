"""Users for the bulk load: made-up people with names that people have."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from uuid import UUID

from pgroute.keys import new_key

FIVE = ("John", "Jane", "Bob", "Alice", "Charlie")

# None of the five: they are recognised by their names.
_NAMES = tuple(
    """
    Aaron Abena Ada Adrian Agnes Ahmed Aiko Alba Aleksander Amara Amelia Amir Ana Anders Andrea
    Anna Antonio Anya Arjun Astrid Ayesha Beatriz Benjamin Birgit Bruno Camille Carlos Carmen
    Cecilia Chen Chiara Clara Daniel David Deborah Diego Dmitri Dorothy Eduardo Elena Elias Elif
    Emeka Emil Emma Erik Esther Eva Farid Fatima Felix Fernanda Fiona Francesca Gabriel Giulia
    Grace Greta Gustavo Hana Hannah Hassan Helena Henrik Hiroshi Hugo Ibrahim Ines Ingrid Irina
    Isaac Isabel Ivan Jakub Jasmine Javier Joana Jonas Jorge Julia Kaito Karim Katarina Kofi
    Kwame Laila Lars Laura Leila Leo Lina Linh Louise Luca Lucia Magnus Maja Marco Maria Marta
    Mateo Matilda Mei Mercy Michal Miguel Mina Mohamed Nadia Naomi Natalia Nia Nikolai Nils Noah
    Noor Olga Oliver Omar Oscar Pablo Patricia Paula Pedro Petra Priya Rafael Rahel Ravi Rebecca
    Ren Rosa Ruth Sakura Samuel Sanjay Sara Sebastian Selma Simon Sofia Stefan Sunita Tariq
    Teresa Thabo Theo Tomas Ursula Valentina Vera Victor Wanjiru Wei William Yara Yasmin Yuki
    Yusuf Zainab Zofia
    """.split()  # noqa: SIM905 - 130 quoted names would be harder to read
)

_SECOND_NAME_SHARE = 0.35


def someone(random: Random) -> str:
    """A first name, and for about a third of people a second one: some 8,000 differ."""
    name = random.choice(_NAMES)
    if random.random() < _SECOND_NAME_SHARE:
        return f"{name} {random.choice(_NAMES)}"
    return name


def people(count: int, random: Random) -> Iterator[tuple[UUID, str]]:
    """``count`` users: a new UUIDv7 key and a name."""
    for _ in range(count):
        yield new_key(), someone(random)
