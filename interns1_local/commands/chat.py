"""A conversation from the client's side: the model, its messages and settings, and how the next one is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from interns1_local.commands.answer import Answer, AnswerWriter, echo_figures, stream_answer, waiting
from interns1_local.commands.attachments import attach, is_film, take_paths
from interns1_local.commands.client import Client
from interns1_local.commands.errors import ServerError
from interns1_local.commands.molecule_view import MoleculeView
from interns1_local.commands.progress import counting_bar
from interns1_local.errors import BadRequest


@dataclass
class Chat:
    """State of `interns1 run`; `/set` changes it. None leaves a choice to the model."""

    client: Client
    model: str
    capabilities: tuple[str, ...] = ()
    # What /api/show says of the model.
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    think: bool | str | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: str | None = None
    hide_thinking: bool = False
    wordwrap: bool = True
    verbose: bool = False
    keep_history: bool = True
    markdown: bool = True
    # Draws the molecules of an answer; None where nobody looks.
    molecules: MoleculeView | None = None
    _sent: dict[str, Any] | None = field(default=None, repr=False)

    def open(self, model: str) -> None:
        """Talk to `model` from now on, in a new conversation; a model that is not there is pulled first."""
        facts = show_or_pull(self.client, model)
        self.model = model
        self.forget()
        self.capabilities = tuple(facts.get("capabilities") or ())
        self.facts = facts

    def forget(self) -> None:
        """Begin a new conversation."""
        self.messages = []
        self._sent = None

    def load(self) -> None:
        """Bring the model into memory, so that the first answer does not wait for it."""
        with waiting(f"Loading {self.model} ..."):
            self.client.post("/api/chat", {**self._request([]), "stream": False})

    def model_names(self) -> list[str]:
        """The models on the server, for completion."""
        return [model["name"] for model in self.client.get("/api/tags").get("models") or []]

    def ask(self, prompt: str, images: Sequence[Path] = ()) -> Answer:
        """Send `prompt` with the pictures that it names, write the answer, and keep both in the history."""
        paths = list(images)
        if "vision" in self.capabilities:
            prompt, found = take_paths(prompt)
            paths += found
            for path in found:
                click.echo(f"Added {'video' if is_film(path) else 'image'} '{path}'", err=True)
        return self._send({"role": "user", "content": prompt, **self._media(paths)})

    def retry(self) -> Answer:
        """Send the last message once more; its answer so far is forgotten."""
        if self._sent is None:
            raise BadRequest("there is no message yet that could be sent again")
        if self.messages[-2:-1] == [self._sent]:
            del self.messages[-2:]
        return self._send(self._sent)

    def cost(self, path: Path) -> list[str]:
        """What a picture or film would cost: its tiles or frames, and tokens."""
        if "vision" not in self.capabilities:
            raise BadRequest(f"'{self.model}' takes no pictures")
        return attach([path], self.facts, self.options, lambda name: counting_bar(name, "frames")).notes

    def _send(self, message: dict[str, Any]) -> Answer:
        self._sent = message
        # JSON is to be read as it is.
        markdown = self.markdown and self.format is None
        writer = AnswerWriter(hide_thinking=self.hide_thinking, wordwrap=self.wordwrap, markdown=markdown)
        answer = stream_answer(self.client, self._request([*self.messages, message]), writer)
        if answer.text or answer.tool_calls:
            self.messages += [message, answer.message()]
        if self.molecules and not answer.stopped:
            self.molecules.show(answer.text)
        if self.verbose:
            echo_figures(answer.figures)
        return answer

    def _media(self, paths: Sequence[Path]) -> dict[str, Any]:
        """The pictures and films of a message; what each costs is printed."""
        before = sum(len(message.get("images", ())) for message in self.messages)
        attached = attach(paths, self.facts, self.options, lambda name: counting_bar(name, "frames"), before)
        for note in attached.notes:
            click.echo(note, err=True)
        media = {"images": attached.images, "videos": attached.videos}
        return {name: files for name, files in media.items() if files}

    def _request(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        if self.system and messages:
            messages = [{"role": "system", "content": self.system}, *messages]
        choices = {
            "options": self.options,
            "think": self.think,
            "format": self.format,
            "keep_alive": self.keep_alive,
        }
        request = {key: value for key, value in choices.items() if value is not None and value != {}}
        return {"model": self.model, "messages": messages, "stream": True, **request}


def show_or_pull(client: Client, model: str) -> dict[str, Any]:
    """What /api/show says about `model`, which is pulled when it is not there."""
    try:
        return client.post("/api/show", {"model": model})
    except ServerError as error:
        if error.status != 404:
            raise
    from interns1_local.commands.pull import pull

    pull(client, model)
    return client.post("/api/show", {"model": model})
