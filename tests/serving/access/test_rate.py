"""Limits hold: on one gateway exactly, over several within what they cannot know of each other yet."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.access.keys import ApiKey, KeyLimits
from serving.access.rate import Admitted, Refused, Uncertain, UsageLimiter
from serving.access.totals import UseTotals
from serving.gateway.observation import KeyUse, OthersUse


def key(**limits: int) -> ApiKey:
    return ApiKey(id="k", name="k", sha256="0", limits=KeyLimits(**limits), created_at=0, created_by="me")


def begin(limiter: UsageLimiter, each: ApiKey, now: float, tokens: int = 0) -> Admitted:
    answer = limiter.try_begin(each, now, tokens)
    assert isinstance(answer, Admitted), answer
    return answer


def refuse(limiter: UsageLimiter, each: ApiKey, now: float, tokens: int = 0) -> Refused:
    answer = limiter.try_begin(each, now, tokens)
    assert isinstance(answer, Refused), answer
    return answer


def told(use: dict[str, KeyUse], gateways: int = 2) -> OthersUse:
    return OthersUse(use, gateways)


def test_a_minutes_worth_at_once_then_one_at_a_time() -> None:
    limiter, five = UsageLimiter(), key(requests_per_minute=5)
    for _ in range(5):
        begin(limiter, five, 100.0)
    refused = refuse(limiter, five, 100.0)
    assert (refused.which, refused.limit) == ("requests_per_minute", 5)
    assert refused.retry_after_s == pytest.approx(12.0)  # 5 a minute is one in 12 s
    assert refused.retry_after_header == "12"
    assert refuse(limiter, five, 106.0).retry_after_s == pytest.approx(6.0)
    begin(limiter, five, 112.0)
    refuse(limiter, five, 112.0)


def test_tokens_are_reserved_and_settled() -> None:
    limiter, limited = UsageLimiter(), key(tokens_per_minute=600)
    first = begin(limiter, limited, 0.0, 600)
    refused = refuse(limiter, limited, 0.0, 300)
    assert (refused.which, refused.retry_after_s) == ("tokens_per_minute", pytest.approx(30.0))
    limiter.finish(first, 0.0, 100)
    begin(limiter, limited, 0.0, 500)
    assert limiter.use() == {"k": KeyUse(requests=2, tokens=600, ongoing=1)}


def test_more_tokens_than_reserved_are_counted_too() -> None:
    limiter, limited = UsageLimiter(), key(tokens_per_minute=60)
    limiter.finish(begin(limiter, limited, 0.0, 10), 0.0, 90)
    assert refuse(limiter, limited, 0.0, 10).retry_after_s == pytest.approx(40.0)


def test_a_request_above_the_limit_waits_for_an_empty_meter() -> None:
    limiter, limited = UsageLimiter(), key(tokens_per_minute=60)
    limiter.finish(begin(limiter, limited, 0.0, 1), 0.0, 1)
    assert refuse(limiter, limited, 0.0, 1000).retry_after_s == pytest.approx(1.0)
    begin(limiter, limited, 1.0, 1000)
    assert refuse(limiter, limited, 1.0, 1).retry_after_s == pytest.approx(941.0)


def test_concurrency_counts_what_is_in_flight_here_and_elsewhere() -> None:
    limiter, limited = UsageLimiter(), key(concurrency=3)
    first = begin(limiter, limited, 0.0)
    begin(limiter, limited, 0.0)
    limiter.absorb(told({"k": KeyUse(ongoing=1)}), 0.0)
    assert refuse(limiter, limited, 0.0).which == "concurrency"
    limiter.finish(first, 0.0, 0)
    begin(limiter, limited, 0.0)
    limiter.absorb(told({"k": KeyUse(ongoing=0)}), 0.0)
    begin(limiter, limited, 0.0)
    refuse(limiter, limited, 0.0)


def test_a_refused_request_costs_nothing() -> None:
    limiter, limited = UsageLimiter(), key(requests_per_minute=60, tokens_per_minute=100)
    for _ in range(100):
        refuse_or_not = limiter.try_begin(limited, 0.0, 80)
    assert isinstance(refuse_or_not, Refused)
    assert limiter.use()["k"] == KeyUse(requests=1, tokens=80, ongoing=1)


def test_a_key_without_limits_leaves_nothing() -> None:
    limiter, free = UsageLimiter(), key()
    for _ in range(1000):
        limiter.finish(begin(limiter, free, 0.0, 10**9), 0.0, 10**9)
    assert limiter.use() == {}


def test_changed_limits_hold_at_once() -> None:
    limiter = UsageLimiter()
    begin(limiter, key(requests_per_minute=10), 0.0)
    limiter.know([key(requests_per_minute=1)], 0.0)
    assert refuse(limiter, key(requests_per_minute=1), 0.0).retry_after_s == pytest.approx(60.0)
    limiter.know([key(requests_per_minute=2)], 0.0)
    begin(limiter, key(requests_per_minute=2), 0.0)


def test_what_other_gateways_used_before_is_history() -> None:
    limited = key(requests_per_minute=5)
    late = UsageLimiter()
    late.know([limited], 0.0)
    late.absorb(told({"k": KeyUse(requests=1000)}), 1.0)
    begin(late, limited, 1.0)
    late.absorb(told({"k": KeyUse(requests=1005)}), 1.0)
    assert refuse(late, limited, 1.0).retry_after_s == pytest.approx(24.0)  # 6 used, 5 held: two must leak


def test_totals_that_fall_give_nothing_back() -> None:
    limiter, limited = UsageLimiter(), key(requests_per_minute=2)
    limiter.know([limited], 0.0)
    limiter.absorb(told({"k": KeyUse(requests=10)}), 0.0)
    limiter.absorb(told({"k": KeyUse(requests=12)}), 0.0)
    limiter.absorb(told({"k": KeyUse(requests=1)}), 0.0)
    refuse(limiter, limited, 0.0)


@settings(max_examples=200, deadline=None)
@given(
    limits=st.fixed_dictionaries(
        {},
        optional={
            "requests_per_minute": st.integers(1, 200),
            "tokens_per_minute": st.integers(1, 5000),
            "concurrency": st.integers(1, 5),
        },
    ),
    events=st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 3000), st.integers(0, 4000), st.booleans()), max_size=60
    ),
)
def test_one_gateway_never_exceeds_its_limits(
    limits: dict[str, int], events: list[tuple[float, int, int, bool]]
) -> None:
    """An oracle without meters: in every window (s, t], requests <= limit x (1 + minutes), and tokens but for the
    last request's overshoot; told waits are exact: a moment earlier it is refused, after them it is admitted."""
    limiter, limited = UsageLimiter(), key(**limits)
    now, open_requests, begun = 0.0, [], []
    for pause, reserved, used, ends in events:
        now += pause
        if ends and open_requests:
            limiter.finish(open_requests.pop(0), now, min(used, reserved))
        answer = limiter.try_begin(limited, now, reserved)
        if isinstance(answer, Admitted):
            open_requests.append(answer)
            begun.append(now)
        else:
            assert answer.retry_after_s > 0
            if answer.which != "concurrency":
                earlier = limiter.try_begin(limited, now + answer.retry_after_s * 0.99 - 1e-3, reserved)
                assert isinstance(earlier, Refused)
                retried = limiter.try_begin(limited, now + answer.retry_after_s, reserved)
                if isinstance(retried, Admitted):
                    open_requests.append(retried)
                    begun.append(now + answer.retry_after_s)
                else:
                    assert retried.which == "concurrency"
                now += answer.retry_after_s
    if "requests_per_minute" in limits:
        for i, start in enumerate(begun):
            for j in range(i, len(begun)):
                allowed = limits["requests_per_minute"] * (1 + (begun[j] - start) / 60)
                assert j - i + 1 <= allowed + 1e-3
    if "concurrency" in limits:
        assert len(open_requests) <= limits["concurrency"]
    for use in limiter.use().values():
        assert min(use.requests, use.tokens, use.ongoing) >= 0


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_three_gateways_hold_one_limit(seed: int, patient: bool) -> None:
    """Everybody hammers three gateways that hear of each other twice a second; one dies and comes back empty."""
    generator = random.Random(seed)
    limited = key(requests_per_minute=60)
    names = ("g0", "g1", "g2")
    gateways = {name: UsageLimiter() for name in names}
    totals, admitted, in_burst = UseTotals(), 0, 0
    ticks_each_second, seconds = 20, 600
    for tick in range(seconds * ticks_each_second):
        now = tick / ticks_each_second
        if tick % 10 == 0:
            for name in names:
                if (others := totals.others(name, names)) is not None:
                    gateways[name].absorb(others, now)
                totals.report(name, gateways[name].use())
        for name in names:
            gateways[name].know([limited], now)
        for _ in range(3 if tick > 100 else 60 if tick > 30 else 0):  # a burst once all know of each other
            answer = gateways[generator.choice(names)].try_begin(limited, now, patient=patient)
            admitted += isinstance(answer, Admitted)
        if tick == 60:
            in_burst = admitted
        if tick == 6000:
            gateways["g1"] = UsageLimiter()  # killed, and started again
            gateways["g1"].know([limited], now)
    if patient:
        assert in_burst <= 60 + 2 + 3  # a minute's worth, what came back meanwhile, and one each
        assert admitted <= 60 * (1 + seconds / 60) + 60 + 3  # and one burst of the gateway that began anew
    else:
        assert in_burst > 100
        assert admitted <= 60 * (1 + seconds / 60) + 2 * 60 + 60  # what three could take before the first word as well
    assert admitted >= 60 * (seconds - 5) / 60  # and nobody is refused what the limit allows


def test_beyond_its_share_a_gateway_waits_for_word_of_the_others() -> None:
    """A client of one gateway gets the whole limit all the same, as soon as the others say that they used nothing."""
    limiter, limited = UsageLimiter(), key(requests_per_minute=8)
    limiter.know([limited], 0.0)
    limiter.absorb(told({}), 0.0)
    limiter.absorb(told({}), 0.0)
    admitted = 0
    for telling in range(10):
        while isinstance(limiter.try_begin(limited, 0.0, patient=True), Admitted):
            admitted += 1
        if telling == 0:
            assert admitted == 4
        limiter.absorb(told({"k": KeyUse()}), 0.0)
    assert admitted == 8
    assert isinstance(limiter.try_begin(limited, 0.0, patient=True), Refused)


def test_a_gateway_decides_alone_where_nobody_tells_it_anything() -> None:
    limited = key(requests_per_minute=8, tokens_per_minute=100)
    alone, deserted = UsageLimiter(), UsageLimiter()
    deserted.absorb(told({}), 0.0)
    for limiter, now in ((alone, 0.0), (deserted, 10.0)):
        for _ in range(8):
            assert isinstance(limiter.try_begin(limited, now, 1, patient=True), Admitted)
        assert isinstance(limiter.try_begin(limited, now, 1, patient=True), Refused)


def test_tokens_are_shared_too() -> None:
    limiter, limited = UsageLimiter(), key(tokens_per_minute=100)
    limiter.absorb(told({}), 0.0)
    assert isinstance(limiter.try_begin(limited, 0.0, 80, patient=True), Admitted)
    assert isinstance(limiter.try_begin(limited, 0.0, 10, patient=True), Uncertain)
    assert isinstance(limiter.try_begin(limited, 0.0, 30, patient=True), Refused)


def test_without_hearing_of_each_other_they_would_exceed_it() -> None:
    """The simulation can fail: three gateways that are never told let three times as much through."""
    limited, gateways = key(requests_per_minute=60), [UsageLimiter() for _ in range(3)]
    admitted = sum(
        isinstance(gateway.try_begin(limited, second / 4), Admitted) for second in range(2400) for gateway in gateways
    )
    assert admitted > 1500


def test_totals_only_grow_and_wait_for_everybody() -> None:
    totals = UseTotals()
    totals.report("a", {"k": KeyUse(10, 100, 2)})
    assert totals.others("c", ["a", "b", "c"]) is None
    totals.report("b", {"k": KeyUse(1, 5, 0)})
    assert totals.others("c", ["a", "b", "c"]) == told({"k": KeyUse(11, 105, 2)}, 3)
    totals.report("a", {"k": KeyUse(3, 30, 1)})  # began anew
    assert totals.others("c", ["a", "b", "c"]) == told({"k": KeyUse(14, 135, 1)}, 3)
    totals.gone("a")
    assert totals.others("c", ["a", "b", "c"]) == told({"k": KeyUse(14, 135, 0)}, 3)
    totals.report("c", {})
    assert totals.others("a", ["a", "b", "c"]) == told({"k": KeyUse(1, 5, 0)}, 3)
