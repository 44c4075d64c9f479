"""The serving section refuses what cannot work, and says where."""

import pytest

from cluster.config import parse_document, validate
from cluster.errors import UserError
from serving.config import ServingConfig


def check(text):
    return validate(ServingConfig, parse_document(text, "recipe.yaml"))


def test_an_empty_section_is_the_demos_split_on_loopback():
    config = check("")
    assert config.weights() == {"base": 90, "tuned": 10}
    assert [variant.model for variant in config.variants] == ["@pretrain", "@finetune"]
    assert (config.host, config.port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("variants:\n- {name: a, model: x}\n- {name: a, model: y}\n", 1, "given twice: a"),
        ("variants:\n- {name: a, model: x, weight: 0}\n", None, "weight above 0"),
        ("variants:\n- {name: a, model: x, weight: -1}\n", 2, "greater than or equal to 0"),
        ("variants:\n- {name: a, model: x, weight: .nan}\n", 2, "finite"),
        ("variants:\n- {name: 'a b', model: x}\n", 2, "pattern"),
        ("variants:\n- {name: a, modle: x}\n", 2, "did you mean model?"),
        ("variants: []\n", 1, "at least 1"),
        ("port: 70000\n", 1, "65535"),
        ("prot: 8000\n", 1, "did you mean port?"),
        ("engine:\n  dtype: float8\n", 2, "dtype"),
        ("engine:\n  replicas: 0\n", 2, "replicas"),
    ],
)
def test_a_mistake_is_named_with_its_line(text, line, words):
    with pytest.raises(UserError) as caught:
        check(text)
    assert words in str(caught.value)
    assert caught.value.where == (f"recipe.yaml:{line}" if line else "recipe.yaml")
