"""Every error a user can meet, as one tree.

    FreeholdError
    ├── RequestError             what was asked cannot be done as asked
    │   ├── InvalidReference     the text names no model we can parse
    │   ├── InvalidRequest       a field of a request is wrong (it names the field)
    │   ├── PromptTooLong        prompt and answer do not fit the context
    │   ├── TemplateFailed       the model's chat template refused or misbehaved
    │   ├── UnknownArchitecture  memory and speed of this kind of model cannot be told
    │   ├── InvalidSetting       a flag, variable or setting has a bad value
    │   ├── KeyNotValid          an API key that was revoked or has expired
    │   └── RequestStopped       somebody who may has ended it
    ├── NotFound
    │   ├── UnknownModel         no such model anywhere we know (carries near names)
    │   ├── ModelNotPulled       known, but not on this disk
    │   ├── ModelNotFetchable    known, but no source of a runnable file is
    │   └── RequestNotFound      no such request is under way
    ├── RefusedFile              bytes we will not run
    │   ├── InvalidModelFile     not a well-formed model file
    │   ├── UnsupportedFile      a pickle, a directory, another format
    │   ├── DigestMismatch       not the bytes that were promised
    │   ├── InvalidLock          a lock that cannot be believed
    │   ├── UntrustedSignature   a signature that proves nothing
    │   └── LicenceRefused       the owner's policy says no to what the licence says
    ├── Unavailable              may work later or elsewhere
    │   ├── SourceUnavailable    a source cannot be reached or lacks the file
    │   │   └── CannotResume     it has the file, but only from the beginning
    │   ├── GatedModel           the source wants a token or an agreement
    │   ├── OfflineRefused       the network was forbidden
    │   ├── DiskFull
    │   ├── StoreBusy            another process holds what we need
    │   ├── PortInUse
    │   ├── ServerUnreachable    a running freehold server stopped answering
    │   ├── ServerMisbehaved     a server under measurement broke off, stalled or made no sense
    │   ├── ServerStopping       this server was told to stop
    │   ├── DeadlineExceeded
    │   ├── EngineNotInstalled   an engine that is installed by itself is not here
    │   ├── EngineInstallFailed  and could not be installed
    │   ├── UpstreamUnavailable  no replica of an upstream can be asked now
    │   └── Limited              too much at once (it says how long to wait)
    │       ├── QueueFull
    │       ├── TooManyAtOnce
    │       ├── TokenRateExceeded
    │       └── UpstreamLimited  an upstream says so
    └── EngineError              the native side failed
        ├── LoadFailed
        ├── EngineCrashed
        ├── UpstreamFailed       an upstream broke off, or made no sense
        ├── PoisonRequest        this request was in flight in two crashes
        └── TextChildFailed

Each class has a stable ``code`` (what programs match on) and most carry a
``hint``: one sentence that says what to do next, and ``values``: what it is about
(`error_values`). How a code becomes an exit status or an HTTP status is decided by the
command line and the dialects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from freehold.domain.error_values import Value, known

Given = Mapping[str, Value | None] | None


class FreeholdError(Exception):
    """Root of the tree. ``str(error)`` is one sentence for people."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, values: Given = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.values = known(values)


class RequestError(FreeholdError):
    code = "request_error"


class InvalidReference(RequestError):
    code = "invalid_reference"


class InvalidRequest(RequestError):
    """A field of a request is wrong; ``field`` is its path in the caller's own words."""

    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        values: Given = None,
    ) -> None:
        super().__init__(message, hint=hint, values=known(values, field=field))
        self.field = field


class PromptTooLong(RequestError):
    """The prompt, or prompt plus requested answer, exceeds the context."""

    code = "context_length_exceeded"

    @classmethod
    def counted(
        cls, *, prompt_tokens: int, context: int, requested_tokens: int | None = None
    ) -> PromptTooLong:
        """The error in our words. Counts are tokens."""
        if requested_tokens is None:
            message = (
                f"The prompt has {prompt_tokens} tokens and the context holds {context}, "
                "of which at least one is needed for the answer."
            )
        else:
            message = (
                f"The prompt has {prompt_tokens} tokens and asks for {requested_tokens} more; "
                f"the context holds {context}."
            )
        return cls(
            message,
            hint="Shorten the prompt, ask for fewer tokens, or load with a larger context.",
            values={
                "prompt_tokens": prompt_tokens,
                "requested_tokens": requested_tokens,
                "context_tokens": context,
            },
        )


class TemplateFailed(RequestError):
    code = "template_failed"


class UnknownArchitecture(RequestError):
    """Planning needs to know how a model keeps what it has read."""

    code = "unknown_architecture"

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="It may run all the same: `freehold run` asks llama.cpp, not the planner."
        )


class InvalidSetting(RequestError):
    code = "invalid_setting"


class KeyNotValid(RequestError):
    code = "invalid_api_key"


class RequestStopped(RequestError):
    """Ended by its own key, or by whoever manages the server. Clients should not try again."""

    code = "request_stopped"

    @classmethod
    def from_outside(cls) -> RequestStopped:
        return cls(
            "This request was stopped on the server, by its own key or by one that manages it.",
            hint="Repeating it at once is not what they wanted.",
        )


class NotFound(FreeholdError):
    code = "not_found"


class UnknownModel(NotFound):
    """Nothing by this name; ``near`` holds similar names, best first."""

    code = "model_not_found"

    def __init__(self, name: str, *, near: tuple[str, ...] = (), hint: str | None = None) -> None:
        self.name = name
        self.near = near
        if hint is None:
            hint = (
                f"Did you mean {' or '.join(near)}?"
                if near
                else "`freehold list --available` shows the models known by name."
            )
        super().__init__(
            f"There is no model called {name!r}.",
            hint=hint,
            values={"model": name, "near": near or None},
        )


class ModelNotPulled(NotFound):
    """The model is known but its weights are not in the store."""

    code = "model_not_pulled"

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"{reference} is not on this machine.",
            hint=f"Fetch it with: freehold pull {reference}",
            values={"model": reference},
        )


class ModelNotFetchable(NotFound):
    """The catalogue describes the model but lists no file of it that can be fetched."""

    code = "model_not_fetchable"

    def __init__(self, reference: str, *, upstream: str) -> None:
        self.reference = reference
        super().__init__(
            f"{reference} is known, but the catalogue lists no file of it to fetch.",
            hint=f"Find a GGUF of {upstream} on the hub and name it: "
            "freehold pull hf:owner/repo:file.gguf",
            values={"model": reference, "release": upstream},
        )


class RequestNotFound(NotFound):
    """It is over, or another key's."""

    code = "request_not_found"

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"No request {identity} is under way.",
            hint="It is over; GET /freehold/v1/activity lists those that are not.",
            values={"id": identity},
        )


class RefusedFile(FreeholdError):
    code = "refused_file"


class InvalidModelFile(RefusedFile):
    code = "invalid_model_file"


class UnsupportedFile(RefusedFile):
    code = "unsupported_file"


class DigestMismatch(RefusedFile):
    """The bytes are not the promised ones. Digests are SHA-256, lower-case hex.

    ``what`` is a sentence's subject; ``file`` its name where others may know it.
    """

    code = "digest_mismatch"

    def __init__(
        self,
        what: str,
        *,
        expected: str,
        actual: str,
        file: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"{what} has SHA-256 {actual}, but {expected} was expected; it will not be used.",
            hint=hint,
            values={"file": file, "expected": expected, "actual": actual},
        )


class InvalidLock(RefusedFile):
    """A lock is damaged, of a newer format, or says what no lock may say."""

    code = "invalid_lock"


class UntrustedSignature(RefusedFile):
    """A signature is of another key or other bytes, or of a kind we do not trust."""

    code = "untrusted_signature"


class LicenceRefused(RefusedFile):
    """What the texts say, and what this machine's policy makes of it, rule this use out."""

    code = "licence_refused"


class Unavailable(FreeholdError):
    code = "unavailable"


class SourceUnavailable(Unavailable):
    code = "source_unavailable"


class CannotResume(SourceUnavailable):
    """The source has the file but cannot begin in the middle of it."""

    code = "cannot_resume"


class GatedModel(Unavailable):
    code = "gated_model"


class OfflineRefused(Unavailable):
    code = "offline"


class EngineNotInstalled(Unavailable):
    code = "engine_not_installed"


class EngineInstallFailed(Unavailable):
    code = "engine_install_failed"


class DiskFull(Unavailable):
    code = "disk_full"


class StoreBusy(Unavailable):
    code = "store_busy"


class PortInUse(Unavailable):
    code = "port_in_use"


class ServerUnreachable(Unavailable):
    code = "server_unreachable"


class ServerMisbehaved(Unavailable):
    code = "server_misbehaved"


class ServerStopping(Unavailable):
    code = "server_stopping"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"


class UpstreamUnavailable(Unavailable):
    """Nobody there answers, or not to us. ``retry_after``: in so many seconds it may."""

    code = "upstream_unavailable"

    def __init__(
        self,
        message: str,
        *,
        retry_after: int | None = None,
        hint: str | None = None,
        values: Given = None,
    ) -> None:
        super().__init__(message, hint=hint, values=known(values, retry_after=retry_after))
        self.retry_after = retry_after


class Limited(Unavailable):
    """Too much at once. It is worth another try in ``retry_after`` seconds."""

    code = "limited"

    def __init__(
        self, message: str, *, retry_after: int, hint: str | None = None, values: Given = None
    ) -> None:
        super().__init__(message, hint=hint, values=known(values, retry_after=retry_after))
        self.retry_after = retry_after


class QueueFull(Limited):
    """As many requests wait for the model as may."""

    code = "queue_full"


class TooManyAtOnce(Limited):
    """A key has as many requests under way as it may."""

    code = "too_many_at_once"


class TokenRateExceeded(Limited):
    """A key has used its tokens of the minute."""

    code = "rate_limit_exceeded"


class UpstreamLimited(Limited):
    """An upstream answers no more of our requests now."""

    code = "upstream_limited"


class EngineError(FreeholdError):
    code = "engine_error"


class LoadFailed(EngineError):
    code = "load_failed"


class EngineCrashed(EngineError):
    code = "engine_crashed"


class UpstreamFailed(EngineError):
    """An upstream broke off, made no sense, or has a fault of its own."""

    code = "upstream_failed"


class PoisonRequest(EngineError):
    code = "poison_request"


class TextChildFailed(EngineError):
    code = "text_child_failed"
