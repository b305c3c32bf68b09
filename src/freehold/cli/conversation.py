"""A conversation in the terminal.

Enter sends; Alt-Enter, or a line that ends in a backslash, begins a new line. Ctrl-C stops an
answer; Ctrl-D leaves. Nothing that is said is kept on disk unless `/save` is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from freehold.cli.answer import Options, answering
from freehold.cli.backend import Backend
from freehold.cli.common import notice
from freehold.cli.output import Screen, figures, why_cut
from freehold.domain.answers import Ended
from freehold.domain.chat import Message, Role
from freehold.domain.errors import FreeholdError, InvalidRequest, PromptTooLong

_PREVIEW = 50


@dataclass
class Transcript:
    """What has been said. Messages alternate: user, assistant, user, …"""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def exchanges(self) -> list[tuple[Message, ...]]:
        """Question and answer pairs; the last may lack its answer."""
        return [tuple(self.messages[i : i + 2]) for i in range(0, len(self.messages), 2)]

    def trim(self, count: int) -> list[tuple[Message, ...]]:
        """Drop the ``count`` oldest exchanges and return them. The system message stays."""
        dropped = self.exchanges()[:count]
        del self.messages[: 2 * count]
        return dropped

    def to_json(self) -> str:
        body = {
            "format": 1,
            "system": self.system,
            "messages": [{"role": m.role.value, "content": m.content} for m in self.messages],
        }
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Transcript:
        """Raises `InvalidRequest` for anything `to_json` would not have written."""
        try:
            body = json.loads(text)
            messages = [Message(Role(m["role"]), str(m["content"])) for m in body["messages"]]
            roles = [message.role for message in messages]
            system = body["system"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest("That file holds no conversation.") from error
        expected = [Role.USER, Role.ASSISTANT] * ((len(roles) + 1) // 2)
        if roles != expected[: len(roles)] or not isinstance(system, str | None):
            raise InvalidRequest("That file holds no conversation.")
        return cls(system, messages)


class Conversation:
    """The loop of question and answer."""

    def __init__(self, backend: Backend, options: Options) -> None:
        self._backend = backend
        self._options = options
        self._transcript = Transcript(system=options.system)
        self._refused: str | None = None
        self._last: Ended | None = None
        self._screen = Screen()
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/help": (self._help, "what can be typed here"),
            "/system": (self._system, "TEXT  set the system message; without TEXT, show it"),
            "/save": (self._save, "FILE  write the conversation to a file"),
            "/load": (self._load, "FILE  go on with a saved conversation"),
            "/stats": (self._stats, "figures of the last answer and of the conversation"),
            "/trim": (self._trim, "[N]  drop the N oldest exchanges (1)"),
        }

    async def hold(self) -> None:
        """Until Ctrl-D or /exit."""
        session = _session([*self._commands, "/retry", "/exit"])
        notice(
            f"{self._options.model}, {self._backend.description}. "
            "/help for commands, Ctrl-D to leave."
        )
        while True:
            try:
                text = (await session.prompt_async(">>> ")).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text in ("/exit", "/quit", "/bye"):
                return
            try:
                await self._take(text)
            except PromptTooLong as error:
                self._say_full(error)
            except FreeholdError as error:
                notice(f"{error.message}{f' {error.hint}' if error.hint else ''}")

    async def _take(self, text: str) -> None:
        if not text:
            return
        if text == "/retry":
            await self._retry()
            return
        name, _, rest = text.partition(" ")
        if name in self._commands:
            self._commands[name][0](rest.strip())
        elif name.startswith("/") and "/" not in name[1:]:
            raise InvalidRequest(f"There is no command {name}.", hint="/help lists them.")
        else:
            await self._ask(text)

    async def _ask(self, text: str) -> None:
        """One exchange. It becomes part of the conversation only once it was answered."""
        self._refused = text
        asked = (*self._transcript.messages, Message(Role.USER, text))
        request = self._options.request(asked, self._transcript.system)
        answer = await answering(self._backend, request, self._screen)
        self._screen.end_line()
        self._refused = None
        self._transcript.messages += [
            Message(Role.USER, text),
            Message(Role.ASSISTANT, answer.text),
        ]
        self._last = answer.ended
        if answer.ended is None:
            notice("(stopped)")
        elif reason := why_cut(answer.ended, self._options.max_tokens):
            notice(f"{reason} /trim drops old exchanges." if "context" in reason else reason)

    async def _retry(self) -> None:
        if self._refused is None:
            raise InvalidRequest("There is no refused message to send again.")
        await self._ask(self._refused)

    def _say_full(self, error: PromptTooLong) -> None:
        notice(error.message)
        exchanges = self._transcript.exchanges()
        if not exchanges:
            notice(
                "This message alone is too long; nothing older can be dropped. "
                "Shorten it, or leave and start with a larger --context."
            )
            return
        notice("Nothing was dropped. The oldest exchanges are:")
        for number, exchange in enumerate(exchanges[:3], start=1):
            length = sum(len(message.content) for message in exchange)
            notice(f"  {number}. {_preview(exchange[0].content)} ({length} characters)")
        notice(f"/trim N drops the N oldest of {len(exchanges)}; then /retry sends your message.")

    # Commands

    def _help(self, _: str) -> None:
        for name, (_action, line) in self._commands.items():
            notice(f"  {name} {line}")
        notice("  /retry send the message that did not fit again")
        notice("  /exit leave (or Ctrl-D)")
        notice("Alt-Enter begins a new line. Ctrl-C stops an answer.")

    def _system(self, text: str) -> None:
        if text:
            self._transcript.system = text
        notice(f"System message: {self._transcript.system or 'none'}")

    def _save(self, name: str) -> None:
        path = _path(name)
        try:
            path.write_text(self._transcript.to_json(), "utf-8")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from error
        notice(f"{len(self._transcript.messages)} messages saved to {path}.")

    def _load(self, name: str) -> None:
        path = _path(name)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path} cannot be read.", hint="Check its name.") from error
        self._transcript = Transcript.from_json(text)
        notice(f"{len(self._transcript.messages)} messages loaded from {path}.")

    def _stats(self, _: str) -> None:
        if self._last is not None:
            notice(f"Last answer: {figures(self._last)}; seed {self._last.seed or 'not told'}.")
        characters = sum(len(message.content) for message in self._transcript.messages)
        notice(
            f"Conversation: {len(self._transcript.exchanges())} exchanges, {characters} characters."
        )

    def _trim(self, text: str) -> None:
        count = int(text) if text.isdecimal() and int(text) > 0 else 1 if not text else 0
        if count == 0:
            raise InvalidRequest(f"{text!r} is not a number of exchanges.", hint="Write /trim 2.")
        dropped = self._transcript.trim(count)
        for exchange in dropped:
            notice(f"Dropped: {_preview(exchange[0].content)}")
        notice(f"{len(dropped)} exchanges dropped, {len(self._transcript.exchanges())} left.")


def _session(words: list[str]) -> PromptSession[Any]:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        history=InMemoryHistory(),
        key_bindings=keys,
        completer=WordCompleter(words, sentence=True),
        complete_while_typing=False,
        prompt_continuation="... ",
    )


def _path(name: str) -> Path:
    if not name:
        raise InvalidRequest("Which file?", hint="Write /save notes.json.")
    return Path(name).expanduser()


def _preview(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PREVIEW else f"{line[: _PREVIEW - 1]}…"
