"""The partition hash: constants from a PostgreSQL 17 server, and agreement of its forms."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.partitions import hashing

# select hashtextextended(text, 8816678312871386365), hashint8extended(number, ...), ...
_TEXTS = {
    "": 0xB0E33D0B543FBFC3,
    "a": 0xA2F240F8823BA67B,
    "hello": 0xDB6D9B35C2A082B1,
    "elevenbytes": 0x310C3F5072737C41,
    "twelve bytes": 0x1586441E5B8CBC33,
    "ä漢 and more than two rounds": 0xDCE9D5A85D64B6E6,
}
_NUMBERS = {
    0: 0xC2E34BDA39F0F0CD,
    1: 0x52D621058124E6D5,
    -1: 0xBA5FC748095606C2,
    2147483647: 0xAC09237E4899F89C,
    -2147483648: 0x44893A0F1E949193,
    9223372036854775807: 0x44893A0F1E949193,
    -9223372036854775808: 0xAC09237E4899F89C,
    5000000000000: 0x11E834A914174CF2,
}
_UUIDS = {
    "00000000-0000-0000-0000-000000000000": 0xB6B5D3C4AA5D92C2,
    "ffffffff-ffff-ffff-ffff-ffffffffffff": 0xFDEEB1999C98549E,
    "01932c07-209c-7000-8abc-0123456789ab": 0x60CD4ACC891471E3,
}


@pytest.mark.parametrize(("text", "hashed"), _TEXTS.items())
def test_bytes_hash_as_on_the_server(text: str, hashed: int) -> None:
    assert hashing.hash_bytes(text.encode()) == hashed


@pytest.mark.parametrize(("number", "hashed"), _NUMBERS.items())
def test_integers_hash_as_on_the_server(number: int, hashed: int) -> None:
    assert hashing.hash_integer(number) == hashed


@pytest.mark.parametrize(("text", "hashed"), _UUIDS.items())
def test_uuids_hash_as_on_the_server(text: str, hashed: int) -> None:
    assert hashing.hash_uuid(UUID(text)) == hashed


@given(st.uuids())
def test_the_unrolled_hash_of_a_uuid_is_the_hash_of_its_bytes(value: UUID) -> None:
    assert hashing.hash_uuid(value) == hashing.hash_bytes(value.bytes)


@given(st.lists(st.uuids(), max_size=40))
def test_many_uuids_hash_as_one_by_one(values: list[UUID]) -> None:
    assert hashing.hash_uuid_many(values) == [hashing.hash_uuid(value) for value in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_many_integers_hash_as_one_by_one(values: list[int]) -> None:
    assert hashing.hash_integer_many(values) == [hashing.hash_integer(value) for value in values]


@given(st.binary(max_size=60), st.integers(0, 2**64 - 1))
def test_a_hash_has_64_bits(data: bytes, seed: int) -> None:
    assert 0 <= hashing.hash_bytes(data, seed) < 2**64


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_combined_hash_has_64_bits(row_hash: int, value_hash: int) -> None:
    assert 0 <= hashing.combine(row_hash, value_hash) < 2**64
