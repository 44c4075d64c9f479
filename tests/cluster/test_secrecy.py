"""Secrets are known by name and by form, never shown in the refusal, and masked in logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.secrecy import Mask, kind_of_key_in_file, leaves, refuse_secret_words, refuse_secrets, secret_in

VARIABLES = """
PGPASSWORD MYSQL_PWD MYSQL_ROOT_PASSWORD REDISCLI_AUTH REDIS_PASSWORD AZURE_STORAGE_KEY AZURE_STORAGE_CONNECTION_STRING
AZURE_CLIENT_SECRET GOOGLE_API_KEY WANDB_API_KEY OPENAI_API_KEY OPENAI_KEY ANTHROPIC_API_KEY COMET_API_KEY KAGGLE_KEY
GITHUB_TOKEN GH_PAT NPM_TOKEN HUGGING_FACE_HUB_TOKEN RAY_AUTH_TOKEN TOKEN2 AWS_SESSION_TOKEN AWS_SECRET_ACCESS_KEY
ENCRYPTION_KEY DJANGO_SECRET_KEY SSH_KEY MLFLOW_TRACKING_PASSWORD MLFLOW_TRACKING_TOKEN HTTP_AUTHORIZATION DB_PASS
"""
"""As tools call theirs."""
GITHUB = "ghp_" + "a1B2" * 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "abc"),
        ("AWS_SECRET_ACCESS_KEY", "x/y"),
        ("serving.auth.token", "hunter2"),
        ("apiKey", "abcd"),
        ("db-password", "p"),
        ("credentials.database", "p"),
        *((name, "abcdefgh") for name in VARIABLES.split()),
        ("PGPASSWORD", "12345678"),
        ("db_pass", "1234"),
        ("where", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + "k1K+" * 22 + "=="),
        ("where", "https://hooks.slack.com/services/T01234567/B01234567/" + "x1Y2" * 6),
        ("note", GITHUB),
        ("note", "AKIA" + "Z" * 16),
        ("note", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        ("endpoint", "https://user:pass@example.org/x"),
    ],
)
def test_secrets_are_refused_without_being_shown(name: str, value: str) -> None:
    with pytest.raises(UserError, match="is not sent") as refusal:
        refuse_secrets({name: value}, "here")
    assert value not in str(refusal.value) or len(value) < 8
    assert "Kubernetes Secret" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "512"),
        ("pretrain.tokens", "2e6"),
        ("tokens.eos_token", "</s>"),
        ("RAY_AUTH_TOKEN_PATH", "/run/token"),
        ("RAY_AUTH_MODE", "token"),
        ("tokenizer", "bpe"),
        ("tokens.existing", "a folder"),
        ("tokenizer.special_tokens.0", "<|x|>"),
        ("curate.redact.3", "secret"),
        ("API_KEY_FILE", "/x"),
        ("HF_TOKEN", ""),
        ("use_token", "true"),
        ("secret_name", "raymill-store"),
        ("text_key", "body"),
        ("primary_key", "id"),
        ("PWD", "/home/me/work"),
        ("OLDPWD", "/home/me"),
        ("num_passes", "3"),
        ("RAY_AUTH_TOKEN_FILE", "/run/token"),
        ("store", "s3://bucket/prefix"),
    ],
)
def test_ordinary_settings_are_none(name: str, value: str) -> None:
    assert secret_in(name, value) is None


@pytest.mark.parametrize("words", [["--token", "abc"], ["--api-key=abc"], ["HF_TOKEN=abc"], ["run", GITHUB]])
def test_secrets_on_a_command_line_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="is not sent"):
        refuse_secret_words(words, "the command line")


def test_an_ordinary_command_line_passes() -> None:
    refuse_secret_words(["--until", "tokens", "--set", "pretrain.tokens=5", "--token-file", "/x"], "here")


def test_leaves_name_every_text() -> None:
    assert dict(leaves({"a": [{"b": "x"}, 3], "c": "y"})) == {"a.0.b": "x", "c": "y"}


def test_the_mask_takes_out_what_the_process_holds(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("deadbeefdeadbeef\n")
    environment = {"HF_TOKEN": "very-secret-1", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "HOME": "/home/me"}
    mask = Mask.of_environment(environment)
    line = f"at /home/me with very-secret-1 and deadbeefdeadbeef and {GITHUB}"
    assert mask.clean(line) == "at /home/me with [HF_TOKEN] and [RAY_AUTH_TOKEN_PATH] and [a GitHub token]"


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcwgg\n-----END PRIVATE KEY-----\n"
    mask = Mask({"TLS_PRIVATE_KEY": key})
    said = [mask.clean(f"  {line}\n") for line in key.splitlines()]
    assert said == ["  [TLS_PRIVATE_KEY]\n"] * 4
    assert mask.clean(f"<{key}>") == "<[TLS_PRIVATE_KEY]\n>"


def test_short_values_do_not_eat_the_log() -> None:
    assert Mask({"PASSWORD": "a"}).clean("a plain line") == "a plain line"


def test_documented_examples_in_files_are_no_keys() -> None:
    assert kind_of_key_in_file("AKIAIOSFODNN7EXAMPLE and http://u:p@h/") is None
    assert kind_of_key_in_file("AKIAIOSFODNN7EXAMPLE " + "AKIA" + "Q" * 16) == "an AWS access key"
