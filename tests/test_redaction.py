"""Secrets leave every text, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadm.redaction import HIDDEN, brief, one_line, redacted, redacted_traceback

# As passwords and tokens are: with signs that addresses encode, and some that they do not.
SECRETS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.~%+/=!$*", min_size=8, max_size=40).map("S3cr".__add__)
TEMPLATES = [
    "s3://AKID:{}@bucket/runs/a",
    "https://user:{}@host:5000/path?x=1",
    "http://user:{}@127.0.0.1:5000",
    "postgresql+psycopg2://user:{}@db/mlflow",
    "failed: https://h/x?X-Amz-Algorithm=AWS4&X-Amz-Credential=a&X-Amz-Signature={}&y=2",
    "s3://bucket/runs?secret_key={}&endpoint_override=http://h",
    "s3://bucket?access_key={}",
    "https://h/x?sig={} is gone",
    "https://h/x?key={}",
    "https://h/x?a=1&access_token={}#top",
    "Authorization: Bearer {}",
    "{{'Authorization': 'Basic {}'}}",
    "headers=authorization: token {}",
    "Bearer {}",
    "AWS_SECRET_ACCESS_KEY={} make train",
    "AWS_SESSION_TOKEN={}",
    "{{'password': '{}', 'user': 'me'}}",
    '"api_key": "{}"',
    "MLFLOW_TRACKING_PASSWORD: {}",
    "ray job submit --auth-token {} -- python",
]


@given(SECRETS, st.sampled_from(TEMPLATES), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_leaves_the_text(secret: str, template: str, before: str, after: str) -> None:
    text = template.format(secret)
    assert secret not in redacted(text) and "***" in redacted(text)
    around = redacted(f"{before} {text} {after}")
    assert secret not in around
    assert redacted(around) == around, "once is enough"


@given(SECRETS)
def test_what_surrounds_it_stays(secret: str) -> None:
    assert redacted(f"from s3://AKID:{secret}@bucket/runs/a, twice") == "from s3://***@bucket/runs/a, twice"
    signed = f"GET https://h/x?a=1&X-Amz-Signature={secret}&y=2 failed"
    assert redacted(signed) == "GET https://h/x?a=1&X-Amz-Signature=***&y=2 failed"
    assert redacted(f"AWS_SECRET_ACCESS_KEY={secret} make train") == "AWS_SECRET_ACCESS_KEY=*** make train"


@given(st.text("abcdefghij XYZ0123456789-_./,()'\n@ä", max_size=60))
def test_a_text_without_addresses_and_assignments_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000",
        "http://127.0.0.1:5000/#/models/sca-dm@champion",
        "http://[::1]:5000/a@b",
        "models:/sca-dm-synthetic-64@champion",
        "abfs://container@account.dfs.core.windows.net/runs",
        "ssh://git@host/project.git",
        "sqlite:////work/project/storage/mlflow.db",
        "s3://bucket/path?region=eu-west-1&endpoint_override=http%3A%2F%2Fh",
        "run key 0123456789abcdef, 1600 faces",
        "scadm.run_key=0123456789abcdef",
        "{'guidance_scale': 0.5, 'tokens': 77, 'keys': ['a']}",
        "RAY_AUTH_TOKEN_PATH=/home/me/.ray/token",
        "unknown key training.stepz = 3",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_token_as_the_user_of_a_web_address() -> None:
    assert redacted("https://ghp_0123456789@host/x.git") == "https://***@host/x.git"


def test_values_of_secret_variables_leave_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("SOME_PASSWORD", "test")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/somebody")
    monkeypatch.setenv("PWD", "/work/project")  # where this is, not a password
    text = redacted("signing with wJalrXUtnFEMI/K7MDENG and hf_abcdefgh: a test of /home/somebody in /work/project")
    assert text == "signing with *** and ***: a test of /home/somebody in /work/project"


def test_an_uncaught_error_is_shown_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("no answer of http://me:S3cret@host:5000")
    except RuntimeError as error:
        redacted_traceback(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n") and f'File "{__file__}", line ' in shown
    assert shown.endswith("RuntimeError: no answer of http://***@host:5000\n")


def test_an_error_in_one_line() -> None:
    assert brief(ValueError("http://a:S3cret@h failed\nand more")) == "http://***@h failed"
    assert brief(ValueError()) == "ValueError"
    assert len(brief("x" * 999)) == 300


def test_a_message_of_several_coloured_lines_is_one_without_its_secrets() -> None:
    error = ValueError("\x1b[36mray::Actor\x1b[39m died at\n   http://user:hunter2@host:1")
    assert one_line(error) == f"ray::Actor died at http://{HIDDEN}@host:1"
    assert one_line("word " * 100, 9) == "word word ..."
