"""The types of key columns whose leaf can be computed, and how. Pure.

A key column's value is turned into the number or the bytes that PostgreSQL stores for it: equal
there means equal here, and numbers and bytes sort as the server sorts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any, TypeAlias
from uuid import UUID

from pgroute.partitions import hashing

Stored: TypeAlias = int | bytes

_DAY_ZERO = date(2000, 1, 1).toordinal()
_MOMENT_ZERO = datetime(2000, 1, 1)  # of timestamp without time zone
_MOMENT_ZERO_UTC = datetime(2000, 1, 1, tzinfo=UTC)
_DAY = 86_400_000_000

# As PostgreSQL stores them for timestamps; no day's number lies beyond them either.
_INFINITIES = {"-infinity": -(2**63), "infinity": 2**63 - 1}

# After so many years the Gregorian calendar repeats itself.
_CYCLE_YEARS = 400
_CYCLE_DAYS = 146_097


@dataclass(frozen=True, slots=True)
class KeyType:
    """How values of one SQL type are stored, hashed, read from a bound and made up.

    ``stored`` raises TypeError for a value of another Python type and ValueError for one outside
    the type's range; ``restore`` is its inverse, and raises OverflowError or ValueError for what
    Python cannot hold. ``parse`` reads a bound's literal. ``hash_many`` hashes a list of values,
    none of them None.
    """

    stored: Callable[[Any], Stored]
    hash: Callable[[Any], int]
    parse: Callable[[str], Stored]
    restore: Callable[[Any], Any]
    sample: Callable[[Random], Any]
    hash_many: Callable[[Sequence[Any]], list[int]] | None = None


def key_type(name: str, modifier: int = -1) -> KeyType | None:
    """The type by its name in pg_type and its modifier (atttypmod); None when not computable."""
    if name == "varchar":
        return _varchar(modifier - 4) if modifier >= 4 else _TYPES["text"]
    if name in ("timestamp", "timestamptz") and modifier >= 0:
        return _rounded(_TYPES[name], modifier)
    return _TYPES.get(name)


def _integer(bits: int) -> KeyType:
    lowest, highest = -(1 << bits - 1), (1 << bits - 1) - 1

    def stored(value: Any) -> int:
        if type(value) is not int:
            raise _wrong(value, "an int")
        if not lowest <= value <= highest:
            raise ValueError(f"{value} does not fit into int{bits // 8}")
        return value

    def sample(random: Random) -> int:
        # Of every length, so that small ones are seen too.
        return random.getrandbits(random.randint(0, bits - 1)) * random.choice((1, -1))

    return _from_number(stored, int, int, sample)


def _from_number(
    stored: Callable[[Any], int],
    parse: Callable[[str], int],
    restore: Callable[[int], Any],
    sample: Callable[[Random], Any],
) -> KeyType:
    return KeyType(
        stored,
        lambda value: hashing.hash_integer(stored(value)),
        parse,
        restore,
        sample,
        lambda values: hashing.hash_integer_many([stored(value) for value in values]),
    )


def _from_bytes(
    stored: Callable[[Any], bytes],
    parse: Callable[[str], bytes],
    restore: Callable[[bytes], Any],
    sample: Callable[[Random], Any],
) -> KeyType:
    return KeyType(stored, lambda value: hashing.hash_bytes(stored(value)), parse, restore, sample)


def _boolean(value: Any) -> int:
    if type(value) is not bool:
        raise _wrong(value, "a bool")
    return int(value)


def _date(value: Any) -> int:
    if type(value) is not date:
        raise _wrong(value, "a date")
    days: int = value.toordinal()
    return days - _DAY_ZERO


def _timestamp(value: Any) -> int:
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise _wrong(value, "a datetime without a time zone")
    return _microseconds(value - _MOMENT_ZERO)


def _timestamptz(value: Any) -> int:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _wrong(value, "a datetime with a time zone")
    return _microseconds(value - _MOMENT_ZERO_UTC)


def _microseconds(span: timedelta) -> int:
    return span.days * _DAY + span.seconds * 1_000_000 + span.microseconds


def _bytea(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _wrong(value, "bytes")
    return bytes(value)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise _wrong(value, "a str")
    if "\0" in value:
        raise ValueError("text cannot hold a zero byte")
    return value.encode()


def _uuid(value: Any) -> int:
    if not isinstance(value, UUID):
        raise _wrong(value, "a UUID")
    return value.int


def _hash_uuid(value: Any) -> int:
    if not isinstance(value, UUID):
        raise _wrong(value, "a UUID")
    return hashing.hash_uuid(value)


def _hash_uuids(values: Sequence[Any]) -> list[int]:
    if set(map(type, values)) != {UUID}:
        for value in values:
            _uuid(value)
    return hashing.hash_uuid_many(values)


def _varchar(length: int) -> KeyType:
    """varchar(n) drops spaces beyond its length when a row is written, and refuses all else."""

    def stored(value: Any) -> bytes:
        data = _text(value)
        if len(value) <= length:
            return data
        if value[length:].strip(" "):
            raise ValueError(f"value too long for type character varying({length})")
        return _text(value[:length])

    def sample(random: Random) -> str:
        return _some_text(random)[:length]

    return _from_bytes(stored, str.encode, bytes.decode, sample)


def _rounded(precise: KeyType, digits: int) -> KeyType:
    """timestamp(p) keeps p digits of the second, half away from zero (AdjustTimestampForTypmod)."""
    scale: int = 10 ** (6 - digits)

    def stored(value: Any) -> int:
        exact = int(precise.stored(value))
        away = (abs(exact) + scale // 2) // scale * scale
        return away if exact >= 0 else -away

    def parse(text: str) -> int:
        return int(precise.parse(text))

    return _from_number(stored, parse, precise.restore, precise.sample)


def _wrong(value: object, wanted: str) -> TypeError:
    return TypeError(f"{value!r} is {type(value).__name__}, the column wants {wanted}")


def _parse_boolean(text: str) -> int:
    return int(text in ("t", "true"))


def _parse_date(text: str) -> int:
    if text in _INFINITIES:
        return _INFINITIES[text]
    within, days = _within_python(text)
    return date.fromisoformat(within).toordinal() - _DAY_ZERO + days


def _parse_timestamp(text: str) -> int:
    if text in _INFINITIES:
        return _INFINITIES[text]
    within, days = _within_python(text)
    moment = datetime.fromisoformat(within)
    zero = _MOMENT_ZERO_UTC if moment.tzinfo else _MOMENT_ZERO
    return _microseconds(moment - zero) + days * _DAY


def _within_python(text: str) -> tuple[str, int]:
    """The same text in a year that Python's dates have, and the days from there to its own year.

    Years before Christ and after 9999 must be told apart: bounds are put in their order by them.
    """
    digits, _, rest = text.partition("-")
    year = int(digits)
    if rest.endswith(" BC"):
        year, rest = 1 - year, rest.removesuffix(" BC")
    cycles = 0 if 1 <= year <= 9999 else (year - 2000) // _CYCLE_YEARS
    return f"{year - cycles * _CYCLE_YEARS:04}-{rest}", cycles * _CYCLE_DAYS


def _parse_bytea(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


def _some_day(random: Random) -> date:
    return date.fromordinal(random.randint(1, date.max.toordinal()))


def _some_moment(random: Random) -> datetime:
    days = timedelta(days=random.randint(-700_000, 2_900_000))
    return _MOMENT_ZERO + days + timedelta(microseconds=random.randrange(_DAY))


def _some_text(random: Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz ABC0123456789_'\\äß漢🙂"
    return "".join(random.choices(letters, k=random.randint(0, 40)))


def _restore_date(number: int) -> date:
    return date.fromordinal(number + _DAY_ZERO)


def _restore_timestamp(number: int) -> datetime:
    return _MOMENT_ZERO + timedelta(microseconds=number)


def _restore_timestamptz(number: int) -> datetime:
    return _restore_timestamp(number).replace(tzinfo=UTC)


def _some_moment_utc(random: Random) -> datetime:
    return _some_moment(random).replace(tzinfo=UTC)


def _some_bytes(random: Random) -> bytes:
    return random.randbytes(random.randint(0, 40))


_TYPES = {
    "bool": _from_number(_boolean, _parse_boolean, bool, lambda random: random.random() < 0.5),
    "int2": _integer(16),
    "int4": _integer(32),
    "int8": _integer(64),
    "date": _from_number(_date, _parse_date, _restore_date, _some_day),
    "timestamp": _from_number(_timestamp, _parse_timestamp, _restore_timestamp, _some_moment),
    "timestamptz": _from_number(
        _timestamptz, _parse_timestamp, _restore_timestamptz, _some_moment_utc
    ),
    "uuid": KeyType(
        _uuid,
        _hash_uuid,
        lambda text: UUID(text).int,
        lambda number: UUID(int=number),
        lambda random: UUID(int=random.getrandbits(128)),
        _hash_uuids,
    ),
    "bytea": _from_bytes(_bytea, _parse_bytea, bytes, _some_bytes),
    "text": _from_bytes(_text, str.encode, bytes.decode, _some_text),
}
