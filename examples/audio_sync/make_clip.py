"""Makes clip.opus, the short piece of music that the demo plays: everything in it is computed here.

python -m examples.audio_sync.make_clip

Plucked strings, a bass and drums, which have sharp edges at all pitches: two copies can be laid over each other to a
fraction of a sample. The end runs into the begin, so that it can be repeated.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

CLIP = Path(__file__).with_name("clip.opus")
RATE = 48_000
BEAT = 28_800  # samples: 100 beats in a minute
BEATS = 20
CHORDS = ((45, 57, 60, 64), (41, 53, 57, 60), (48, 55, 60, 64), (43, 55, 59, 62), (45, 57, 60, 64))
"""A minor, F, C, G, A minor: a bass note and three others, as MIDI numbers; four beats each."""
STEPS = (1, 2, 3, 2, 1, 3, 2, 3)
"""Which of them is plucked in each half beat."""

Mono = NDArray[np.float64]


def main() -> None:
    random = np.random.default_rng(20)
    track = np.zeros((BEATS * BEAT, 2))
    for beat in range(BEATS):
        chord = CHORDS[beat // 4]
        add(track, beat * BEAT, bass(chord[0]), 0.22, 0.5)
        add(track, beat * BEAT, kick(), 0.5 if beat % 2 == 0 else 0.0, 0.5)
        add(track, beat * BEAT, snare(random), 0.25 if beat % 2 else 0.0, 0.55)
        for half in range(2):
            at = beat * BEAT + half * BEAT // 2
            note = chord[STEPS[(2 * beat + half) % len(STEPS)]] + (12 if beat % 8 == 7 else 0)
            add(track, at, pluck(random, note), 0.4, 0.25 + 0.5 * (half ^ beat & 1))
            add(track, at, hat(random), 0.06, 0.7)
    write(track * (0.8 / np.abs(track).max()))


def add(track: NDArray[np.float64], at: int, sound: Mono, loudness: float, right: float) -> None:
    """Mix a sound in, from 0 on the left to 1 on the right; what goes beyond the end comes at the begin."""
    where = (at + np.arange(len(sound))) % len(track)
    track[where, 0] += sound * loudness * (1 - right)
    track[where, 1] += sound * loudness * right


def pluck(random: np.random.Generator, note: int) -> Mono:
    """A string: noise that goes round in a loop as long as a period, and is smoothed each time (Karplus and Strong)."""
    period = round(RATE / pitch(note))
    turn = random.uniform(-1, 1, period)
    turns = []
    for _ in range(int(1.2 * RATE / period)):
        turns.append(turn)
        turn = 0.498 * (turn + np.roll(turn, 1))
    return np.concatenate(turns)


def bass(note: int) -> Mono:
    time = np.arange(BEAT) / RATE
    tones = [np.sin(2 * np.pi * pitch(note - 12) * k * time) / k for k in (1, 2, 3)]
    sound: Mono = np.sum(tones, axis=0) * np.exp(-3 * time)
    return sound


def kick() -> Mono:
    time = np.arange(RATE // 4) / RATE
    sound: Mono = np.sin(2 * np.pi * (50 * time - 6 * np.exp(-30 * time))) * np.exp(-14 * time)
    return sound


def snare(random: np.random.Generator) -> Mono:
    time = np.arange(RATE // 5) / RATE
    sound: Mono = (random.uniform(-1, 1, len(time)) + np.sin(2 * np.pi * 190 * time)) * np.exp(-22 * time)
    return sound


def hat(random: np.random.Generator) -> Mono:
    noise = np.diff(random.uniform(-1, 1, RATE // 20 + 1))
    return noise * np.exp(-90 * np.arange(len(noise)) / RATE)


def pitch(note: int) -> float:
    return 440 * 2 ** ((note - 69) / 12)


def write(track: NDArray[np.float64]) -> None:
    integers = np.rint(track * 32767).astype(np.int16)
    with av.open(str(CLIP), "w") as container:
        stream = container.add_stream("libopus", rate=RATE, options={"frame_duration": "20"})
        stream.bit_rate = 64_000
        for begin in range(0, len(integers), 960):
            frame = av.AudioFrame.from_ndarray(integers[begin : begin + 960].reshape(1, -1), "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
