"""What goes wrong with S3, as errors that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.errors import InfraError, UserError

MISSING = {"404", "NoSuchKey", "NotFound"}
CONFLICT = {"409", "ConditionalRequestConflict"}
CONDITION_FAILED = {"412", "PreconditionFailed"} | CONFLICT
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


def code_of(error: Any) -> str:
    """The code that S3 gives an error, such as ``NoSuchKey``; empty for any other exception."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


@contextmanager
def explained(store: str, place: str) -> Iterator[None]:
    """Around requests to S3.

    Args:
        store: the store's address.
        place: the address of what is asked for.

    Raises:
        FileNotFoundError: it is not there.
        UserError: there is no such bucket or profile, there are no credentials, or access is refused.
        InfraError: the server fails or does not answer.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        ProfileNotFound,
    )
    from s3transfer.exceptions import S3ValidationError

    try:
        yield
    except ClientError as error:
        raise _explain(error, store, place) from error
    except NoCredentialsError as error:
        raise UserError(
            "there are no credentials for the S3 store",
            where=store,
            next_step="set the AWS_… variables or a profile; write s3://anonymous@bucket for a public bucket",
        ) from error
    except ProfileNotFound as error:
        raise UserError(str(error), where="AWS_PROFILE", next_step="name one of ~/.aws/config, or unset it") from error
    except ParamValidationError as error:  # before anything is sent: the bucket's name, or a key that is too long
        lines = [line for line in str(error).splitlines() if not line.endswith("validation failed:")]
        raise UserError(
            lines[0].partition(": Bucket name must")[0], where=store, next_step="name a bucket as s3://bucket/prefix"
        ) from error
    except Boto3Error as error:  # of a transfer: it holds what happened, or came while that was handled
        happened = getattr(error, "last_exception", None) or error.__context__
        raise (_explain if isinstance(happened, ClientError) else _silent)(happened or error, store, place) from error
    except (BotoCoreError, S3ValidationError) as error:
        raise _silent(error, store, place) from error


def _silent(error: BaseException, store: str, place: str) -> Exception:
    return InfraError(
        f"the S3 store does not answer: {error}",
        where=place,
        next_step="check the endpoint, the network and the AWS_… variables, then repeat the command",
    )


def _explain(error: BaseException, store: str, place: str) -> Exception:
    code = code_of(error)
    if code in MISSING:
        return FileNotFoundError(place)
    if code == "NoSuchBucket":
        return UserError("no such bucket", where=store, next_step="create the bucket, or name another store")
    if code in _DENIED:
        return UserError(
            f"the S3 store refuses access ({code})",
            where=place,
            next_step="check the credentials and the bucket's policy",
        )
    return InfraError(f"the S3 store failed: {error}", where=place, next_step="repeat the command; it continues")
