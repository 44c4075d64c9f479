"""Sticky assignment: exact shares, the same user always on the same variant, and the fewest users moved."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from serving.split.assignment import BUCKETS, Allocation, bucket_counts, bucket_of

NAMES = ["a", "b", "c", "d", "e"]
weights_of = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.floats(0, 1000) for name in names})
)
some_weights = weights_of.filter(lambda weights: sum(weights.values()) > 1e-6)


@given(some_weights)
@settings(max_examples=30, deadline=None)
def test_every_variant_owns_its_share_of_buckets_to_one_bucket(weights):
    counts = Counter(Allocation.first(weights).owners)
    total = sum(weights.values())
    assert sum(counts.values()) == BUCKETS
    for name, weight in weights.items():
        assert abs(counts[name] - BUCKETS * weight / total) <= 1
        if weight == 0:
            assert counts[name] == 0


@given(some_weights, some_weights)
@settings(max_examples=30, deadline=None)
def test_a_change_of_weights_moves_exactly_as_many_buckets_as_the_counts_differ(before, after):
    first = Allocation.first(before)
    second = first.reweighted(after)
    was = bucket_counts(before)
    wanted = bucket_counts(after, was)
    fewest = sum(max(0, wanted.get(name, 0) - was.get(name, 0)) for name in {*was, *wanted})
    assert sum(old != new for old, new in zip(first.owners, second.owners, strict=True)) == fewest
    assert dict(Counter(second.owners)) == {name: count for name, count in wanted.items() if count}


def test_equal_weights_in_another_order_move_nobody():
    first = Allocation.first({"a": 1, "b": 1, "c": 1})  # 10,000 does not divide by three
    assert first.reweighted({"c": 1, "b": 1, "a": 1}).owners == first.owners


def test_a_growing_variant_keeps_its_users_and_a_rollback_returns_the_same_ones():
    one = Allocation.first({"base": 99, "tuned": 1})
    five = one.reweighted({"base": 95, "tuned": 5})
    half = five.reweighted({"base": 50, "tuned": 50})
    back = half.reweighted({"base": 95, "tuned": 5})
    on_tuned = [{b for b, owner in enumerate(each.owners) if owner == "tuned"} for each in (one, five, half, back)]
    assert on_tuned[0] < on_tuned[1] < on_tuned[2]
    assert on_tuned[3] == on_tuned[1]


@given(st.text(min_size=1, max_size=40))
def test_a_key_always_gets_the_same_bucket_and_variant(key):
    allocation = Allocation.first({"a": 1, "b": 1})
    assert 0 <= bucket_of("x", key) < BUCKETS
    assert allocation.assign("x", key) == allocation.assign("x", key)
    assert allocation.assign("x", key).sticky


def test_the_bucket_is_the_published_function_of_experiment_and_key():
    # Golden, from `printf 'docs-assistant\\0user-0001' | b2sum -l 64`. A change would move every user.
    assert bucket_of("docs-assistant", "user-0001") == 0xE8AF3BD2ABE59F7A % 10_000


def test_users_split_by_weight_and_independently_in_another_experiment():
    users = [f"user-{index}" for index in range(20_000)]
    allocation = Allocation.first({"base": 90, "tuned": 10})
    first = [allocation.assign("one", user).variant for user in users]
    second = [allocation.assign("two", user).variant for user in users]
    # 20,000 fair draws of 10 %: standard error 0.21 %, five of them are 1.06 %
    assert abs(first.count("tuned") / len(users) - 0.10) < 0.0106
    both = sum(a == b == "tuned" for a, b in zip(first, second, strict=True)) / len(users)
    assert abs(both - 0.01) < 0.0036
    buckets = Counter(bucket_of("one", user) * 10 // BUCKETS for user in users)
    assert max(buckets.values()) / min(buckets.values()) < 1.15


def test_a_request_without_a_key_is_drawn_by_weight_and_flagged():
    allocation = Allocation.first({"a": 1, "b": 0})
    drawn = [allocation.assign("x", None) for _ in range(50)]
    assert {each.variant for each in drawn} == {"a"}
    assert not any(each.sticky for each in drawn)
    assert len({each.bucket for each in drawn}) > 30


def test_variants_may_come_and_go():
    allocation = Allocation.first({"a": 1}).reweighted({"a": 1, "b": 1}).reweighted({"b": 1, "c": 1})
    assert allocation.shares() == {"b": 0.5, "c": 0.5}
    assert allocation.version == 2


@pytest.mark.parametrize("weights", [{"a": 0, "b": 0}, {"a": -1, "b": 2}, {"a": float("nan")}, {"a": float("inf")}])
def test_weights_that_are_not_a_split_are_refused(weights):
    with pytest.raises(UserError):
        Allocation.first(weights)
