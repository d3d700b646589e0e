"""The demo of audio in step: its arithmetic on made-up recordings, and the whole as processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.audio.sounds import noise, write_wav
from tests.examples.programs import environment, module

check: Any = import_module("examples.audio_sync.check")
pictures: Any = import_module("examples.audio_sync.pictures")
demo: Any = import_module("examples.audio_sync.__main__")

START_NS = 1e15
SOUND = noise(48_000 * 6)[:, 0].astype(float)


def recording(name: str, *, early_us: float, told_us: float | None = None, drift_ppm: float = 0.0) -> Any:
    """What a receiver would record that plays everything so much early, and what it tells of itself."""
    rate = 48_000 * (1 + drift_ppm / 1e6)
    moments = np.arange(48_000 * 5) / rate
    heard = np.interp(moments + early_us / 1e6, np.arange(len(SOUND)) / 48_000, SOUND) * 32767
    skew_ns = 1e3 * (early_us if told_us is None else told_us)
    log = [
        {"session_ns": START_NS + at * 50e6, "skew_ns": skew_ns, "clock_error_ns": 5e3, "buffer_ns": 3e8}
        for at in range(100)
    ]
    return check.Recording(name, START_NS, round(START_NS), rate, heard, log, {})


def judge(recordings: list[Any]) -> Any:
    return check.judge(recordings, *check.compare_all(recordings))


@pytest.mark.parametrize("early_us", [0.0, 33.0, -107.0, 2000.0])
def test_the_lag_between_recordings_is_found_to_a_fraction_of_a_sample(early_us: float) -> None:
    found, unclear = check.compare(recording("a", early_us=early_us), recording("b", early_us=0.0, drift_ppm=50.0))
    assert (len(found), unclear) == (5, 0)
    assert all(abs(window.recorded_ns - early_us * 1e3) < 2e3 for window in found)
    assert all(window.told_ns == pytest.approx(early_us * 1e3) for window in found)


def test_sound_that_cannot_tell_a_lag_tells_none() -> None:
    moments = np.arange(24_960)
    told = {
        "soft": SOUND[:24_960] * 50,
        "a tone": 9e3 * np.sin(2 * np.pi * 1000 * moments / 48_000),
        "something else": 9e3 * noise(24_960, seed=2)[:, 0],
    }
    for name, sound in told.items():
        other = sound if name != "something else" else SOUND[:24_960] * 32767
        assert check.lag(sound[480:-480], other) is None, name
    rumble = 9e3 * np.sin(2 * np.pi * 30 * moments / 48_000)
    assert check.lag(rumble[480:-480], rumble) == pytest.approx(0.0, abs=1e-3)
    rough = rumble + 3e3 * np.random.default_rng(1).standard_normal(24_960)
    assert check.lag(rough[480:-480], rumble) is None


def test_the_spread_is_from_the_first_to_the_last() -> None:
    recordings = [recording("a", early_us=10.0), recording("b", early_us=-40.0), recording("c", early_us=0.0)]
    _, width = check.spread(recordings)
    assert width == pytest.approx(50e3)
    report = judge(recordings)
    assert report["skew_p99_us"] == pytest.approx(50.0)
    assert report["told_wrong_max_us"] < 2.0
    assert report["compared"] == 15


def test_who_tells_wrong_things_is_found_out() -> None:
    report = judge([recording("a", early_us=100.0, told_us=0.0), recording("b", early_us=0.0)])
    assert report["skew_max_us"] == pytest.approx(0.0)
    assert report["told_wrong_p50_us"] == pytest.approx(100.0, abs=2.0)
    assert report["compared"] == 5
    assert "recordings and reports differ by 10" in demo.faults_of(report)[0]


def test_a_single_window_that_disagrees_is_a_fault() -> None:
    wrong = recording("a", early_us=0.0)
    for row in wrong.log[60:62]:
        row["skew_ns"] = 500e3
    report = judge([wrong, recording("b", early_us=0.0)])
    assert report["told_wrong_p50_us"] < 2.0
    assert demo.faults_of(report)


def test_nothing_to_compare_is_a_fault() -> None:
    hushed = recording("a", early_us=0.0)
    hushed.sound[:] = 0.0
    report = judge([hushed, recording("b", early_us=0.0)])
    assert (report["compared"], report["unclear"]) == (0, 5)
    assert "nothing could be compared" in demo.faults_of(report)[0]


def test_a_receiver_is_in_step_once_it_is_heard() -> None:
    late, other = recording("a", early_us=0.0), recording("b", early_us=0.0)
    late.sound[: 48_000 * 3 // 2] = 0.0
    assert late.seconds_to_step([other]) == pytest.approx(1.5, abs=1e-3)
    assert other.seconds_to_step([late]) == 0.0
    other.sound[: 48_000 * 3 // 2] = 0.0  # silence that was cast is no delay
    assert late.seconds_to_step([other]) == 0.0
    for row in late.log[:50]:
        row["skew_ns"] = 2e6
    assert late.seconds_to_step([other]) == pytest.approx(2.5, abs=1e-3)
    way = {"loaded": START_NS + 3e8, "connected": START_NS + 5e8}
    assert replace(late, reached_ns=way).seconds_each() == pytest.approx(
        {"loaded": 0.3, "connected": 0.2, "sound": 1.0}
    )


def test_a_recording_that_was_cut_off_is_read(tmp_path: Path) -> None:
    rows = [{"state": "waiting", "session_ns": 0}, {"state": "playing", "session_ns": START_NS, "skew_ns": 1.0}]
    (tmp_path / "a.json").write_text('{"name": "a", "began_ns": 5, "started_ns": 7, "samples_per_second": 48000.5}')
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"state": "pl')
    path = write_wav(tmp_path / "a.wav", noise(1000))
    path.write_bytes(path.read_bytes()[:-3])
    read = check.load(tmp_path, "a", 6)
    assert (read.name, read.began_ns, read.started_ns, read.samples_per_second) == ("a", 6, 7, 48_000.5)
    assert len(read.sound) == 999
    assert len(read.log) == 1


@pytest.mark.slow
def test_the_page_needs_no_network(tmp_path: Path) -> None:
    recordings = [recording("a", early_us=10.0), recording("b", early_us=-40.0)]
    report: dict[str, Any] = {
        "ok": False,
        "faults": ["<b> was late"],
        "file": "clip & more.opus",
        "seconds": 60.0,
        "skew": judge(recordings),
        "receivers": [{"name": "a<script>", "lost": 0}],
        "joined": [],
    }
    pictures.write_page(report, pictures.draw(recordings, check.compare_all(recordings)[0], tmp_path), tmp_path)
    assert (tmp_path / "skew.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "Something is out of step" in page
    assert "clip &amp; more.opus; &lt;b&gt; was late." in page
    assert "<td>a&lt;script&gt;</td>" in page
    assert "src=" not in page
    assert "@import" not in page
    drawn = ET.fromstring(page[page.index("<svg") :].strip())
    assert drawn.tag.endswith("svg")


@pytest.mark.slow
def test_a_file_without_sound_is_refused(tmp_path: Path) -> None:
    done = module("examples.audio_sync", __file__, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "test_audio_sync.py cannot be decoded" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(90)  # four processes start, on a machine that is busy with other tests
def test_three_processes_keep_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.audio_sync", "--seconds", "3", "--json"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert {item["name"] for item in report["receivers"]} == {"kitchen", "study", "garden"}
    assert report["skew"]["compared"] >= 2
    assert math.isfinite(report["skew"]["recorded_p99_us"])
    folder = tmp_path / "build" / "audio-sync"
    assert {path.suffix for path in folder.iterdir()} == {".wav", ".json", ".jsonl", ".png", ".html"}
    assert (done.returncode, report["ok"]) in ((0, True), (1, False))
    # How well is for machines that do nothing else to show; that nothing goes wrong altogether, for this one.
    assert report["skew"]["recorded_max_us"] < 5_000
