"""Which sequences are scored together: every run has its prefix in common, saves work, and takes no logits away."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import prefixes
from evals.prefixes import computed_tokens, cut_runs, find_runs, fold
from evals.scorer import Group


def group(inputs: list[int], *lengths: int) -> Group:
    """A sequence with continuations of so many tokens each."""
    return Group(inputs, [[1] * length for length in lengths or (1,)])


GROUPS = st.lists(
    st.builds(
        lambda inputs, longest: group(inputs, min(longest, len(inputs)), 1),
        st.lists(st.integers(0, 1), min_size=1, max_size=9),
        st.integers(1, 4),
    ),
    max_size=9,
    unique_by=lambda each: tuple(each.inputs),
)


@given(GROUPS, st.integers(0, 6))
def test_runs_share_what_they_say_and_leave_what_is_read(groups: list[Group], least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "LEAST_SAVED", least)
        runs = find_runs(groups)
    members = [index for run in runs for index in run.members]
    assert len(members) == len(set(members)) and set(members) <= set(range(len(groups)))
    for run in runs:
        assert run.prefix > 0 and run.prefix * (len(run.members) - 1) > least
        first = groups[run.members[0]]
        for index in run.members:
            assert groups[index].inputs[: run.prefix] == first.inputs[: run.prefix]
            assert len(groups[index].inputs) - run.prefix >= max(map(len, groups[index].continuations))
        assert [len(groups[index].inputs) for index in run.members] == sorted(
            (len(groups[index].inputs) for index in run.members), reverse=True
        )


ONE_TOKEN_ANSWERS = st.lists(
    st.builds(group, st.lists(st.integers(0, 1), min_size=1, max_size=9)),
    max_size=6,
    unique_by=lambda each: tuple(each.inputs),
)


@given(ONE_TOKEN_ANSWERS, st.integers(0, 6))
def test_no_single_run_would_save_more_than_all_that_were_found(groups: list[Group], least: int) -> None:
    """Brute force over all sets of sequences; several runs may save more together, never less than one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "LEAST_SAVED", least)
        found = sum(run.prefix * (len(run.members) - 1) - least for run in find_runs(groups))
    best = 0
    for size in range(2, len(groups) + 1):
        for chosen in combinations(groups, size):
            common = min(len(each.inputs) for each in chosen) - 1
            while any(each.inputs[:common] != chosen[0].inputs[:common] for each in chosen):
                common -= 1
            best = max(best, (size - 1) * common - least)
    assert found >= best


@given(st.permutations(range(12)))
def test_the_order_of_the_requests_makes_no_difference(order: list[int]) -> None:
    groups = [group([*range(100 * (number % 3), 100 * (number % 3) + 90), 500 + number]) for number in range(12)]
    runs = find_runs([groups[index] for index in order])
    assert [[order[place] for place in run.members] for run in runs] == [run.members for run in find_runs(groups)]


def test_subjects_with_worked_examples_are_a_run_each_and_short_ones_none() -> None:
    header = [list(range(1000 * subject, 1000 * subject + 700)) for subject in range(3)]
    groups = [
        group([7, *header[subject], *range(50_000 + 40 * number, 50_000 + 40 * number + 20 + number)])
        for subject in range(3)
        for number in range(5)
    ]
    groups += [group([7, 90_000 + number, 1]) for number in range(5)]
    runs = find_runs(groups)
    assert [run.prefix for run in runs] == [701] * 3
    assert {frozenset(run.members) for run in runs} == {frozenset(range(5 * s, 5 * s + 5)) for s in range(3)}
    batches = cut_runs(groups, runs, 2)
    assert [len(batch.groups) for batch, _ in batches] == [2, 2, 1] * 3
    assert all(batch.groups == [groups[index] for index in members] for batch, members in batches)


@given(GROUPS)
def test_a_row_answers_all_that_it_begins_with_and_no_fewer_rows_would_do(groups: list[Group]) -> None:
    rows = fold(groups)
    assert sorted(index for row in rows for index in row) == list(range(len(groups)))
    for head, *others in rows:
        assert all(groups[head].inputs[: len(groups[index].inputs)] == groups[index].inputs for index in others)
    longest = [
        one.inputs
        for one in groups
        if not any(
            len(other.inputs) > len(one.inputs) and other.inputs[: len(one.inputs)] == one.inputs for other in groups
        )
    ]
    assert len(rows) == len(longest)


def test_a_batch_is_so_many_rows_with_all_that_they_answer() -> None:
    head = list(range(1000))
    groups = [group([*head, 5000 + number, *([7] * extra)], 1 + extra) for number in range(3) for extra in range(2)]
    batches = cut_runs(groups, find_runs(groups), 2)
    assert [len(batch.groups) for batch, _ in batches] == [4, 2]
    assert computed_tokens([batch for batch, _ in batches]) == 1000 + 3 * 2


def test_nothing_is_found_among_nothing_and_among_one() -> None:
    assert find_runs([]) == [] == find_runs([group(list(range(5000)))])
