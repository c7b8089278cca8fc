"""Map errors of boto3 to TapeErrors of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from extract.errors import FinalError, OutsideError, RetriableError, UsageError

_REFUSED = frozenset(
    {"AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature"}
    | {"InvalidAccessKeyId", "InvalidClientTokenId"}
    | {"InvalidSignatureException", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)
_FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "OptInRequired"})
_BUSY = frozenset({"LimitExceededException", "Throttling", "ThrottlingException", "TooManyRequestsException"})


@contextmanager
def aws_errors() -> Iterator[None]:
    """Raise TapeErrors for boto3's errors, whose messages hold no secret key; they are shortened nevertheless."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise UsageError(
            f"The AWS credentials are incomplete ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE."
        ) from error
    except ClientError as error:
        raise _error_from_response(error) from error
    except (ConnectionError, HTTPClientError) as error:
        raise RetriableError(f"AWS cannot be reached: {_shorten(str(error))}") from error
    except (BotoCoreError, ValueError) as error:
        raise FinalError(f"The request to AWS failed: {_shorten(str(error))}") from error


def _error_from_response(error: ClientError) -> OutsideError | UsageError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    operation = error.operation_name
    if code in _REFUSED:
        return UsageError(
            f"AWS rejects the credentials ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN."
        )
    if code in _FORBIDDEN:
        return UsageError(
            f"AWS does not allow {operation} to these credentials ({code}); give their role that permission."
        )
    text = _shorten(error.response.get("Error", {}).get("Message", ""))
    message = f"AWS answered {operation} with {code}: {text}"
    return RetriableError(message) if code in _BUSY or status >= 500 else FinalError(message)


def _shorten(text: str) -> str:
    return " ".join(text.split())[:200]
