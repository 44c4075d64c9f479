"""A server that has work and moves none of it is stuck, however well it says that it is."""

from serving.engines.load import Load, StallWatch

PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 2.0
vllm:num_requests_waiting{engine="0",model_name="base"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="base"} 40.0
vllm:prompt_tokens_created{engine="0",model_name="base"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="base"} 1.25e+03
"""


def test_a_metrics_page_says_what_is_under_way_and_done():
    assert Load.read(PAGE) == Load(ongoing=3, tokens=1290.0)
    assert Load.read("") == Load(None, None)


def test_stuck_is_who_moves_nothing_for_long_enough_while_there_is_work():
    watch = StallWatch(60)
    looks = [
        (0, Load(1, 5.0), False),
        (50, Load(1, 5.0), False),  # the first look from which nothing moved
        (100, Load(1, 5.0), False),
        (110, Load(1, 5.0), True),
        (120, Load(1, 6.0), False),  # it moves again
        (200, Load(0, 6.0), False),  # nothing to do is no stall
        (300, Load(1, 6.0), False),
        (359, Load(1, 6.0), False),
        (360, Load(1, 6.0), True),
        (400, Load(1, None), False),  # a server that does not say is believed
    ]
    assert [watch.stuck(load, at) for at, load, _ in looks] == [stuck for *_, stuck in looks]
