"""Which pictures a batch has: a pure function of seed and number, each picture as often as any other, a batch of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def generator(*key: object) -> torch.Generator:
    """A random generator that depends on the key alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batch_place(counts: Sequence[int], size: int, seed: int, number: int, kind: str = "") -> tuple[int, list[int]]:
    """(bucket, places in it) of the pictures of a batch.

    Each bucket is an endless stream of its pictures, shuffled anew each time round, and a batch is the next `size` of one stream.
    Of an epoch, in which all buckets together come round once, a bucket has as many batches as it then lacks, so that what does not
    fill a batch comes in a later epoch.

    Args:
        counts: pictures of each bucket, repeated ones as often as they are. size: of a batch. number: of the batch, from 0.
        kind: begins the names of the random numbers, for other data.
    """
    bucket, index = _bucket_of(counts, size, seed, number, kind)
    own = ("bucket", bucket) if len(counts) > 1 else ()
    return bucket, [_place(counts[bucket], seed, index * size + i, own, kind) for i in range(size)]


def _bucket_of(counts: Sequence[int], size: int, seed: int, number: int, kind: str) -> tuple[int, int]:
    """(bucket, how many batches it had before) of a batch."""
    if len(counts) == 1:
        return 0, number
    epoch = number * size // sum(counts)  # at most so many batches come before it
    while _batches_before(counts, size, epoch + 1) <= number:
        epoch += 1
    batches = [
        (bucket, index)
        for bucket, count in enumerate(counts)
        for index in range(epoch * count // size, (epoch + 1) * count // size)
    ]
    order = torch.randperm(len(batches), generator=generator(f"{kind}buckets", seed, epoch))
    return batches[int(order[number - _batches_before(counts, size, epoch)])]


def _batches_before(counts: Sequence[int], size: int, epoch: int) -> int:
    """Full batches of all streams before an epoch."""
    return sum(epoch * count // size for count in counts)


def _place(count: int, seed: int, position: int, own: tuple[object, ...], kind: str) -> int:
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator(f"{kind}order", seed, epoch, *own))[place])
