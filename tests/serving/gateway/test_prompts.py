"""Prompt variants: pure changes of a request."""

from hypothesis import given
from hypothesis import strategies as st

from serving.config import LimitsConfig, PromptConfig
from serving.gateway.prompts import with_prompt
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
