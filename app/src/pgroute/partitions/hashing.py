"""PostgreSQL's partition hash, in plain Python. Pure.

Sources: ``hash_bytes_extended``, ``hash_uint32_extended`` (src/common/hashfn.c), ``hash_combine64``
(src/include/common/hashfn.h), ``compute_partition_hash_value`` (partbounds.c) and
HASH_PARTITION_SEED (partition.h) of PostgreSQL 17. The hash is Bob Jenkins' lookup3 (2006).

Everything below works modulo 2**32 on three words a, b, c. To be fast it masks a word only where
its upper bits would matter: before it is rotated. ``word * _TWICE >> 32 - n`` has the word rotated
left by n in its lower half.

The ``*_many`` functions do the same sums on a whole list at once: one large integer holds a word
of every key in lanes of 64 bits, so that each operation costs one pass over memory instead of one
turn of the interpreter per key.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

SEED = 0x7A5B22367996DCFD
_COMBINE = 0x49A0F4DD15E5A8E3

_MASK32 = 0xFFFF_FFFF
_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_TWICE = 0x1_0000_0001
_BORROW_BIT = 40  # above any sum of a few words, below the end of a lane

_four_words = struct.Struct("<4I").unpack
_three_words = struct.Struct("<3I").unpack_from


def combine(row_hash: int, value_hash: int) -> int:
    """The row's hash after one more key column (``hash_combine64``). NULL is not combined."""
    sum_ = value_hash + _COMBINE + (row_hash << 54) + (row_hash >> 7)
    return row_hash ^ (sum_ & _MASK64)


def combine_many(row_hashes: Sequence[int], value_hashes: Sequence[int]) -> list[int]:
    """combine() of each pair, in order."""
    if not any(row_hashes):
        return [value_hash + _COMBINE & _MASK64 for value_hash in value_hashes]
    return [combine(*pair) for pair in zip(row_hashes, value_hashes, strict=True)]


def hash_bytes(data: bytes, seed: int = SEED) -> int:
    """``hash_bytes_extended``: any bytes to 64 bits."""
    a, b, c = _start(len(data), seed)
    at, last = 0, len(data) - 12
    while at <= last:
        word0, word1, word2 = _three_words(data, at)
        a, b, c = _mix(a + word0, b + word1, c + word2 & _MASK32)
        at += 12
    tail = int.from_bytes(data[at:], "little")
    a += tail & _MASK32
    b += tail >> 32 & _MASK32
    c += tail >> 64 << 8  # the lowest byte of c is kept for the length
    return _finish(a, b & _MASK32, c)


def hash_uint32(word: int, seed: int = SEED) -> int:
    """``hash_uint32_extended``: the lowest 32 bits of an integer to 64 bits."""
    a, b, c = _start(4, seed)
    return _finish(a + (word & _MASK32), b, c)


def hash_integer(value: int) -> int:
    """int2, int4, int8, date, timestamp, timestamptz, bool: equal numbers hash equal."""
    return hash_uint32(fold(value))


def fold(value: int) -> int:
    """A signed 64-bit number as 32 bits, where a number that fits into 32 stays (hashint8)."""
    upper = value >> 32
    return (value ^ (upper if value >= 0 else ~upper)) & _MASK32


def hash_uuid(value: UUID) -> int:
    """``uuid_hash_extended``: 16 bytes in network order; hash_bytes() with its loop unrolled."""
    a: int
    b: int
    c: int
    last: int
    a, b, c, last = _four_words(value.int.to_bytes(16, "big"))
    a += _UUID_A
    b += _UUID_B
    c = c + _UUID_C & 0xFFFFFFFF
    a = (a - c ^ c * 0x100000001 >> 28) & 0xFFFFFFFF
    c += b
    b = (b - a ^ a * 0x100000001 >> 26) & 0xFFFFFFFF
    a += c
    c = (c - b ^ b * 0x100000001 >> 24) & 0xFFFFFFFF
    b += a
    a = (a - c ^ c * 0x100000001 >> 16) & 0xFFFFFFFF
    c += b
    b = (b - a ^ a * 0x100000001 >> 13) & 0xFFFFFFFF
    a += c + last
    c = c - b ^ b * 0x100000001 >> 28
    b = b + a - last & 0xFFFFFFFF
    c = (c ^ b) - (b * 0x100000001 >> 18) & 0xFFFFFFFF
    a = (a ^ c) - (c * 0x100000001 >> 21) & 0xFFFFFFFF
    b = (b ^ a) - (a * 0x100000001 >> 7) & 0xFFFFFFFF
    c = (c ^ b) - (b * 0x100000001 >> 16) & 0xFFFFFFFF
    a = (a ^ c) - (c * 0x100000001 >> 28) & 0xFFFFFFFF
    b = (b ^ a) - (a * 0x100000001 >> 18) & 0xFFFFFFFF
    return b << 32 | (c ^ b) - (b * 0x100000001 >> 8) & 0xFFFFFFFF


def hash_uuid_many(values: Sequence[UUID]) -> list[int]:
    """hash_uuid() of each, in order."""
    count = len(values)
    half = count + 1 >> 1
    raw = [value.int.to_bytes(16, "big") for value in values]
    raw += [bytes(16)] * (2 * half - count)
    # Four words of 32 bits per key: the first half's go to even lanes, the second's to odd ones.
    even = int.from_bytes(b"".join(raw[:half]), "little")
    odd = int.from_bytes(b"".join(raw[half:]), "little")
    every_other = _lanes(half, 16) * _MASK32
    a, b, c, last = (
        (even >> shift & every_other) | (odd >> shift & every_other) << 64
        for shift in (0, 32, 64, 96)
    )
    one, low, borrow = _constants(2 * half)
    a += one * _UUID_A
    b += one * _UUID_B
    c = c + one * _UUID_C & low
    a, b, c = _mix_lanes(a, b, c, low, borrow)
    hashes = _finish_lanes(a + last & low, b, c, low, borrow, 2 * half)
    return hashes[0::2] + hashes[1::2][: count - half]


def hash_integer_many(values: Sequence[int]) -> list[int]:
    """hash_integer() of each, in order."""
    count = len(values)
    one, low, borrow = _constants(count)
    words = struct.pack(f"<{count}Q", *[fold(value) for value in values])
    a, b, c = _start(4, SEED)
    lanes = int.from_bytes(words, "little") + one * a & low
    return _finish_lanes(lanes, one * b, one * c, low, borrow, count)


@lru_cache(maxsize=256)
def _start(length: int, seed: int) -> tuple[int, int, int]:
    a = b = c = 0x9E3779B9 + length + 3923095 & _MASK32
    if seed:
        a = a + (seed >> 32) & _MASK32
        b = b + seed & _MASK32
        a, b, c = _mix(a, b, c)
    return a, b, c


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """One round over 12 bytes. ``c`` comes masked; all three leave masked."""
    a = (a - c ^ c * _TWICE >> 28) & _MASK32
    c += b
    b = (b - a ^ a * _TWICE >> 26) & _MASK32
    a += c
    c = (c - b ^ b * _TWICE >> 24) & _MASK32
    b += a
    a = (a - c ^ c * _TWICE >> 16) & _MASK32
    c += b
    b = (b - a ^ a * _TWICE >> 13) & _MASK32
    a += c
    c = c - b ^ b * _TWICE >> 28
    return a & _MASK32, b + a & _MASK32, c & _MASK32


def _finish(a: int, b: int, c: int) -> int:
    """The last round: ``b`` comes masked; ``b`` and ``c`` are the hash."""
    c = (c ^ b) - (b * _TWICE >> 18) & _MASK32
    a = (a ^ c) - (c * _TWICE >> 21) & _MASK32
    b = (b ^ a) - (a * _TWICE >> 7) & _MASK32
    c = (c ^ b) - (b * _TWICE >> 16) & _MASK32
    a = (a ^ c) - (c * _TWICE >> 28) & _MASK32
    b = (b ^ a) - (a * _TWICE >> 18) & _MASK32
    return b << 32 | (c ^ b) - (b * _TWICE >> 8) & _MASK32


@lru_cache(maxsize=32)
def _lanes(count: int, width: int) -> int:
    """The number 1 in each of ``count`` lanes of ``width`` bytes."""
    return int.from_bytes((b"\1" + bytes(width - 1)) * count, "little")


def _constants(count: int) -> tuple[int, int, int]:
    """Per lane: 1, the mask of its lower half, and a bit to borrow from when subtracting."""
    one = _lanes(count, 8)
    return one, one * _MASK32, one << _BORROW_BIT


def _mix_lanes(a: int, b: int, c: int, low: int, borrow: int) -> tuple[int, int, int]:
    a = (a + borrow - c ^ c << 4 ^ c >> 28) & low
    c += b
    b = (b + borrow - a ^ a << 6 ^ a >> 26) & low
    a += c
    c = (c + borrow - b ^ b << 8 ^ b >> 24) & low
    b += a
    a = (a + borrow - c ^ c << 16 ^ c >> 16) & low
    c += b
    b = (b + borrow - a ^ a << 19 ^ a >> 13) & low
    a += c
    c = (c + borrow - b ^ b << 4 ^ b >> 28) & low
    return a, b + a & low, c


def _finish_lanes(a: int, b: int, c: int, low: int, borrow: int, count: int) -> list[int]:
    c = (c ^ b) + borrow - _rotated(b, 14, low) & low
    a = (a ^ c) + borrow - _rotated(c, 11, low) & low
    b = (b ^ a) + borrow - _rotated(a, 25, low) & low
    c = (c ^ b) + borrow - _rotated(b, 16, low) & low
    a = (a ^ c) + borrow - _rotated(c, 4, low) & low
    b = (b ^ a) + borrow - _rotated(a, 14, low) & low
    c = (c ^ b) + borrow - _rotated(b, 24, low) & low
    return list(struct.unpack(f"<{count}Q", (b << 32 | c).to_bytes(8 * count, "little")))


def _rotated(words: int, by: int, low: int) -> int:
    return (words << by | words >> 32 - by) & low


_UUID_A, _UUID_B, _UUID_C = _start(16, SEED)
