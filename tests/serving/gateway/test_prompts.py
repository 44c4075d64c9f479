"""Prompt variants: pure changes of a request."""

from hypothesis import given
from hypothesis import strategies as st

from serving.config import LimitsConfig, PromptConfig
from serving.gateway.prompts import with_prompt, with_sampling
from serving.gateway.wire import CHAT, COMPLETIONS, EMBEDDINGS

PROMPT = PromptConfig(system="S", template="<{prompt}>", sampling={"temperature": 0.1})
LIMITS = LimitsConfig()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(["messages", "prompt", "temperature", "stop", "model"])


@given(st.dictionaries(FIELDS, JSON), st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]))
def test_what_the_caller_set_stays(body, path):
    before = repr(body)
    changed = with_prompt(body, path, PROMPT, LIMITS)
    assert repr(body) == before
    for name, value in body.items():
        if name not in ("messages", "prompt") and value is not None:
            assert changed[name] == value
    assert path != EMBEDDINGS or changed == body
    assert with_prompt(body, path, None, LIMITS) == body


def test_a_template_goes_around_texts_and_not_around_token_ids():
    for given_prompt, wanted in [
        ("a{x}", "<a{x}>"),
        (["a", "b"], ["<a>", "<b>"]),
        ([1, 2], [1, 2]),
        ([[1], [2]], [[1], [2]]),
    ]:
        assert with_prompt({"prompt": given_prompt}, COMPLETIONS, PROMPT, LIMITS)["prompt"] == wanted


def test_a_system_message_yields_to_the_callers_unless_it_replaces_it():
    user, theirs = {"role": "user", "content": "u"}, {"role": "developer", "content": "d"}
    ours = {"role": "system", "content": "S"}
    assert with_prompt({"messages": [user]}, CHAT, PROMPT, LIMITS)["messages"] == [ours, user]
    assert with_prompt({"messages": [theirs, user]}, CHAT, PROMPT, LIMITS)["messages"] == [theirs, user]
    replacing = PROMPT.model_copy(update={"replace_system": True})
    assert with_prompt({"messages": [theirs, user]}, CHAT, replacing, LIMITS)["messages"] == [ours, user]


def filled(body, path=CHAT, sampling=None, **limits):
    """The fields that are added to a request, or changed."""
    prompt = PromptConfig(sampling=sampling) if sampling else None
    after = with_sampling(body, path, prompt, LimitsConfig(**limits))
    return {name: value for name, value in after.items() if body.get(name, "") != value}


def test_a_variants_defaults_go_before_the_limits_own_and_are_capped():
    asked = {"max_tokens": 64, "n": 2}
    assert filled({}, max_tokens=1024) == {"max_tokens": 1024}
    assert filled({}, sampling=asked, max_tokens=1024) == asked
    assert filled({"max_tokens": None}, sampling=asked, max_tokens=50, max_choices=1) == {"max_tokens": 50, "n": 1}
    assert filled({}, COMPLETIONS, {"best_of": 99}, max_tokens=50, max_choices=4) == {"best_of": 4}
    assert filled({}, COMPLETIONS, max_tokens=5) == {"max_tokens": 5}
    assert filled({}, EMBEDDINGS, asked, max_tokens=5) == {}


def test_a_caller_who_says_how_long_an_answer_may_be_under_either_name_is_right():
    for name in ("max_tokens", "max_completion_tokens"):
        for other in ("max_tokens", "max_completion_tokens"):
            assert filled({name: 7}, sampling={other: 64, "n": 2}, max_tokens=100) == {"n": 2}


def test_a_default_that_is_no_count_does_not_get_round_the_limits():
    for value in ("5000", 5000.5, True, float("inf"), [5000]):
        assert filled({}, sampling={"max_tokens": value, "n": value}, max_tokens=100) == {"max_tokens": 100}
    assert filled({}, sampling={"max_tokens": 1e12, "n": 3.0}, max_tokens=100) == {"max_tokens": 100, "n": 3}
