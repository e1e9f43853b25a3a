"""Batches: every structure where it should be, none twice, the same again for the same epoch."""

import numpy as np
import pytest

from mcgm.errors import DataError
from mcgm.training.batches import BatchSampler, EvaluationSampler, pack

SIZES = np.random.default_rng(0).integers(1, 40, size=101)


def sampler(**changes):
    return BatchSampler(SIZES, **{"atoms": 60, "structures": None, "seed": 1, "epoch": 0} | changes)


def test_batches_hold_at_most_the_atoms_asked_for():
    batches = pack(range(len(SIZES)), SIZES, atoms=60, structures=None)
    assert max(SIZES[batch].sum() for batch in batches) <= 60
    assert [k for batch in batches for k in batch] == list(range(len(SIZES)))


def test_structure_larger_than_the_budget_gets_a_batch_of_its_own():
    assert pack([0, 1, 2], np.array([5, 100, 5]), atoms=10, structures=None) == [[0], [1], [2]]


def test_batches_hold_at_most_the_structures_asked_for():
    assert [len(batch) for batch in pack(range(7), np.ones(7), atoms=None, structures=3)] == [3, 3, 1]


def test_epoch_is_a_shuffle_that_repeats():
    assert sampler().batches == sampler().batches
    assert sampler().batches != sampler(epoch=1).batches
    assert sampler().batches != sampler(seed=2).batches
    assert sorted(k for batch in sampler() for k in batch) == list(range(len(SIZES)))


def test_ranks_share_the_batches_without_overlap():
    for ranks in (2, 3, 7):
        shards = [sampler(rank=rank, ranks=ranks) for rank in range(ranks)]
        assert len({len(shard) for shard in shards}) == 1
        seen = [k for shard in shards for batch in shard.batches[: shard.counted] for k in batch]
        assert sorted(seen) == list(range(len(SIZES)))


def test_steps_of_several_ranks_are_those_of_one_with_larger_batches():
    few = np.ones(13, dtype=int)
    make = {"atoms": None, "seed": 1, "epoch": 0}
    whole = BatchSampler(few, structures=6, **make).batches
    shards = [BatchSampler(few, structures=3, rank=rank, ranks=2, **make) for rank in range(2)]
    for step, batch in enumerate(whole):
        shared = [k for shard in shards if step < shard.counted for k in shard.batches[step]]
        assert shared == batch


def test_fewer_batches_than_ranks_is_an_error():
    with pytest.raises(DataError, match="one for each of 500 devices"):
        sampler(ranks=500)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_counts_every_structure_once(ranks):
    seen = [k for rank in range(ranks) for batch in EvaluationSampler(SIZES, rank=rank, ranks=ranks) for k in batch]
    assert sorted(seen) == list(range(len(SIZES)))


def test_every_rank_has_something_to_evaluate():
    small = np.ones(5, dtype=int)
    shards = [EvaluationSampler(small, rank=rank, ranks=4).batches for rank in range(4)]
    assert all(shards)
    assert sorted(k for shard in shards for batch in shard for k in batch) == list(range(5))
    with pytest.raises(DataError, match="5 structures to evaluate on 6 devices"):
        EvaluationSampler(small, ranks=6)
