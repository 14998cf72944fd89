"""Frames, requests, chunks and errors across a socket."""

from __future__ import annotations

import asyncio
import socket
import struct

import numpy as np
import pytest

from interns1_local.engine.guide import ThoughtRules
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest, ContextOverflow, InternS1Error
from interns1_local.runners.protocol import (
    Chunk,
    Finish,
    Frame,
    FrameSocket,
    GenerateRequest,
    TokenLogprob,
    chunk_from,
    chunk_header,
    error_from,
    error_header,
    frame_buffers,
    read_frame,
    request_frame,
    request_from,
)


def through_a_socket(frame: Frame) -> Frame:
    left, right = socket.socketpair()
    with left, right:
        FrameSocket(left).send(frame)
        left.shutdown(socket.SHUT_WR)
        receiver = FrameSocket(right)
        received = receiver.receive()
        assert receiver.receive() is None
    assert received is not None
    return received


def read(data: bytes) -> Frame | None:
    async def feed() -> Frame | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_frame(reader)

    return asyncio.run(feed())


def test_frames_read_the_same_on_both_sides() -> None:
    frame = Frame({"op": "x", "text": "\u00e9\u2028"}, (b"", b"abc", bytes(1000)))
    assert through_a_socket(frame) == frame
    assert read(b"".join(frame_buffers(frame))) == frame


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<II", 5, 0) + b"{}", struct.pack("<II", 2**31, 0)])
def test_a_cut_or_foreign_frame_is_the_end(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.parametrize("prompt", ["a text", ["a", np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), "b"], [1, 2, 3]])
def test_requests_arrive_as_they_were_sent(prompt: object) -> None:
    request = GenerateRequest(prompt, SamplingParams(seed=3, logit_bias={1: 2.0}), 9, False)
    received = request_from(through_a_socket(request_frame(4, request)))
    assert (received.sampling, received.max_tokens, received.skip_special_tokens) == (request.sampling, 9, False)
    assert type(received.prompt) is type(prompt)
    for sent, got in zip(prompt, received.prompt, strict=True):
        assert np.array_equal(sent, got)


def test_what_an_answer_is_held_to_arrives() -> None:
    rules = ThoughtRules(starts_inside=True, budget=4, max_answer_tokens=5)
    request = GenerateRequest("text", thought=rules, grammar="start: body", grammar_after="<call>", forbidden="<b>")
    assert request_from(through_a_socket(request_frame(1, request))) == request


def test_chunks_arrive_as_they_were_sent() -> None:
    logprob = TokenLogprob(5, b"\xff\x00", -0.5, (TokenLogprob(6, b"x", -1.0),))
    chunk = Chunk([5], b"\xff\x00", [logprob], Finish("stop", 1, 0, 1, 0.1, 0.2))
    frame = through_a_socket(Frame(chunk_header(7, chunk), (chunk.data,)))
    assert frame.header["id"] == 7
    assert chunk_from(frame.header, bytes(frame.blobs[0])) == chunk


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ContextOverflow("too long"), ContextOverflow),
        (BadRequest("no"), BadRequest),
        (ValueError("odd"), InternS1Error),
    ],
)
def test_errors_keep_their_class(error: Exception, expected: type[Exception]) -> None:
    received = error_from(error_header(1, error))
    assert type(received) is expected and received.message == str(error)


@pytest.mark.parametrize("tiles", [np.zeros((2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3), np.float32)])
def test_images_of_a_wrong_shape_or_type_are_refused(tiles: np.ndarray) -> None:
    with pytest.raises(BadRequest, match="uint8"):
        request_frame(1, GenerateRequest([tiles]))
