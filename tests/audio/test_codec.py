"""Packets and back: what comes out, how far behind, and what is no packet."""

from __future__ import annotations

import numpy as np
import pytest

from echostream.audio.codec import CODECS, make_decoder, make_encoder
from echostream.audio.samples import FRAME_SAMPLES
from echostream.errors import ConfigurationError
from tests.audio.sounds import frames_of, lag, noise


@pytest.mark.parametrize("codec", CODECS)
def test_what_comes_out_lies_as_far_behind_as_the_encoder_says(codec: str) -> None:
    sound = noise(24_000)
    encoder, decoder = make_encoder(codec), make_decoder(codec)
    frames = [decoder.decode(encoder.encode(frame)) for frame in frames_of(sound)]
    assert {None if frame is None else frame.shape for frame in frames} == {(FRAME_SAMPLES, 2)}
    assert lag(np.concatenate([frame for frame in frames if frame is not None]), sound) == encoder.delay_samples


def test_samples_as_they_are_come_out_as_they_were() -> None:
    [frame] = frames_of(noise(FRAME_SAMPLES))
    packet = make_encoder("pcm").encode(frame)
    decoded = make_decoder("pcm").decode(packet)
    assert len(packet) == FRAME_SAMPLES * 4
    assert decoded is not None
    assert np.abs(decoded - frame).max() < 1 / 32767


def test_opus_takes_a_tenth_of_that() -> None:
    encoder = make_encoder("opus")
    sizes = [len(encoder.encode(frame)) for frame in frames_of(noise(24_000))]
    assert 100 < np.mean(sizes) < 200


@pytest.mark.parametrize("codec", CODECS)
def test_a_packet_that_makes_no_sense_is_none(codec: str) -> None:
    decoder = make_decoder(codec)
    for packet in (b"", b"\xff" * 10, b"x" * 5000):
        assert decoder.decode(packet) is None
    good = make_encoder(codec).encode(noise(FRAME_SAMPLES))
    assert decoder.decode(good) is not None


def test_a_decoder_can_begin_in_the_midst() -> None:
    sound = noise(24_000)
    encoder, decoder = make_encoder("opus"), make_decoder("opus")
    packets = [encoder.encode(frame) for frame in frames_of(sound)]
    frames = [decoder.decode(packet) for packet in packets[20:]]
    heard = np.concatenate([frame for frame in frames[5:] if frame is not None])
    assert lag(heard, sound[25 * FRAME_SAMPLES :]) == encoder.delay_samples


def test_an_unknown_codec_is_refused() -> None:
    for make in (make_encoder, make_decoder):
        with pytest.raises(ConfigurationError, match="'mp3' is unknown, choose opus or pcm"):
            make("mp3")
