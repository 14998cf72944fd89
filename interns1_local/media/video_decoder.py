"""The process that opens a film: `python -m interns1_local.media.video_decoder REQUEST` writes its frames to stdout.

A line of JSON says how many frames follow, then each has a line and its pixels, uint8 [size, size, 3]; a line may say
{"error": ...} instead. One frame is in memory at a time: the packets are counted without decoding them, and then only
what lies between a keyframe and a wanted frame is decoded.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from interns1_local.errors import MediaError
from interns1_local.media.child_limits import limit_this_process
from interns1_local.media.image import stretch
from interns1_local.media.video import FrameChoice

# 8K, and half as much again.
MAX_PIXELS = 50_000_000
MAX_STREAMS = 64
# A day at 60 frames a second.
MAX_PACKETS = 60 * 86_400
MEMORY = 4 * 2**30
# Containers that hold a film within themselves. Playlists, which name other files and addresses, are not among them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,apng,h264,hevc,m4v,mjpeg,ivf,mxf"
)


@dataclass(frozen=True, slots=True)
class Packets:
    """What the packets of a film say: how many frames, and when each is shown (empty: they do not say).

    `times` are sorted; `keys` are the times of those frames that need no other.
    """

    count: int
    times: Sequence[int]
    keys: Sequence[int]


class Decoder:
    """One open film."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._open()
        _check_size(self._stream.codec_context.width, self._stream.codec_context.height)

    @property
    def rate(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def count(self) -> Packets:
        """Count the frames; only the file's order is read, nothing is decoded."""
        times, keys = array("q"), array("q")
        count, ordered, complete = 0, True, True
        try:
            for packet in self._container.demux(self._stream):
                if packet.size == 0 or packet.is_discard or (count == 0 and not packet.is_keyframe):
                    continue
                count += 1
                if count > MAX_PACKETS:
                    raise MediaError(f"the video has more than {MAX_PACKETS} frames")
                complete = complete and packet.pts is not None
                ordered = ordered and packet.pts == packet.dts
                times.append(packet.pts or 0)
                if packet.is_keyframe:
                    keys.append(packet.pts or 0)
        except av.FFmpegError as error:
            raise MediaError(f"the video is damaged or cut short: {_reason(error)}") from None
        if count == 0:
            raise MediaError("the video holds no frames")
        shown = sorted(times)
        # AVI numbers its packets, and frames that are shown in another order get numbers that are not theirs.
        trusted = complete and len(set(shown)) == count and (ordered or self._container.format.name != "avi")
        return Packets(count, array("q", shown) if trusted else (), array("q", sorted(keys)) if trusted else ())

    def frames(self, packets: Packets, indices: Sequence[int]) -> Iterator[VideoFrame]:
        """The frames of `indices`, which rise, in the order in which the film shows them."""
        by_time = self._by_time(packets, indices) if packets.times else self._by_number(indices)
        found = 0
        for frame in by_time:
            _check_size(frame.width, frame.height)
            found += 1
            yield frame
        if found < len(indices):
            raise MediaError("the video is damaged or cut short: some of its frames cannot be decoded")

    def _by_number(self, indices: Sequence[int]) -> Iterator[VideoFrame]:
        """Without times every frame is decoded, and counted."""
        place = 0
        self._open()
        for number, frame in enumerate(self._decoded()):
            while place < len(indices) and indices[place] <= number:
                yield frame
                place += 1
            if place == len(indices):
                return

    def _by_time(self, packets: Packets, indices: Sequence[int]) -> Iterator[VideoFrame]:
        frames: Iterator[VideoFrame] = iter(())
        frame: VideoFrame | None = None
        position: int | None = None
        for index in indices:
            time = packets.times[index]
            key = bisect_right(packets.keys, time) - 1
            if position is None or (key >= 0 and packets.keys[key] > position):
                frames = self._from_key(packets.keys, key, time)
                frame = next(frames, None)
            while frame is not None and frame.pts is not None and frame.pts < time:
                frame = next(frames, None)
            if frame is None:
                return
            position = time
            yield frame

    def _from_key(self, keys: Sequence[int], key: int, time: int) -> Iterator[VideoFrame]:
        """Frames from `keys[key]` on, or from an earlier one when the container lands behind `time`."""
        back = 1
        while key >= 0:
            try:
                self._container.seek(keys[key], stream=self._stream)
            except av.FFmpegError:
                break
            frames = self._decoded()
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= time:
                return chain((first,), frames)
            key, back = key - back, 2 * back
        self._open()
        return self._decoded()

    def _decoded(self) -> Iterator[VideoFrame]:
        """Frames from the next keyframe on; packets that are damaged are passed over, as players do."""
        started = False
        for packet in self._container.demux(self._stream):
            started = started or packet.is_keyframe
            if not started:
                continue
            try:
                frames = packet.decode()
            except (av.InvalidDataError, av.EOFError):
                continue
            yield from (frame for frame in frames if isinstance(frame, VideoFrame))

    def _open(self) -> None:
        """Open the film, at its start."""
        self._file.seek(0)
        try:
            # The protocol list is a name that no protocol has: nothing else is opened on behalf of this file.
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
            self._container = av.open(self._file, "r", options=options, metadata_errors="ignore")
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"the video cannot be opened: {_reason(error)}") from None
        if len(self._container.streams) > MAX_STREAMS:
            raise MediaError(f"the video has {len(self._container.streams)} streams; the limit is {MAX_STREAMS}")
        films = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not films:
            raise MediaError("the file holds no video: no picture stream is in it")
        self._stream: VideoStream = films[0]
        context = self._stream.codec_context
        if context is None or not context.codec.is_decoder:
            raise MediaError("the video's codec is not known here")
        # One thread, for others compute on this machine; it also keeps frames in flight few.
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_PIXELS)}


def tile(frame: VideoFrame, size: int) -> bytes:
    """The frame, upright, stretched over size x size pixels."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = round(frame.rotation / 90) % 4
    if turn:
        ways = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
        image = image.transpose(ways[turn - 1])
    return stretch(image, size, size).tobytes()


def main(arguments: list[str]) -> None:
    request = json.loads(arguments[0])
    out = sys.stdout.buffer
    av.logging.set_level(None)
    limit_this_process(MEMORY, int(request["seconds"]) + 5, int(request["seconds"]) + 10)
    try:
        with open(request["path"], "rb") as file:
            decoder = Decoder(file)
            packets = decoder.count()
            indices = FrameChoice(request["num_frames"], request["fps"]).indices(packets.count, decoder.rate)
            _say(out, {"frames": len(indices)})
            for frame in decoder.frames(packets, indices):
                pixels = tile(frame, request["size"])
                _say(out, {"time": frame.time})
                out.write(pixels)
                out.flush()
    except MediaError as error:
        _say(out, {"error": error.message})
    except av.FFmpegError as error:
        _say(out, {"error": f"the video is damaged or cut short: {_reason(error)}"})
    except MemoryError:
        _say(out, {"error": "the video needs too much memory to be decoded"})
    except OSError as error:
        _say(out, {"error": f"the video cannot be read: {error.strerror or error}"})


def _say(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


def _is_cover(stream: VideoStream) -> bool:
    """A picture of the album, which music files carry as a stream."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise MediaError(f"the video has no pixels: it is {width}x{height}")
    if width * height > MAX_PIXELS:
        raise MediaError(f"the video has {width}x{height} pixels; the limit is {MAX_PIXELS} in all")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


if __name__ == "__main__":
    main(sys.argv[1:])
