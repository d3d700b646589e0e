"""The demo of audio in step: its arithmetic on made-up recordings, and the whole as processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.audio.sounds import noise, write_wav
from tests.examples.programs import environment, module

check: Any = import_module("examples.audio_sync.check")
pictures: Any = import_module("examples.audio_sync.pictures")

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
    return check.Recording(name, START_NS, round(START_NS), rate, heard, log)


@pytest.mark.parametrize("early_us", [0.0, 33.0, -107.0, 2000.0])
def test_the_lag_between_recordings_is_found_to_a_fraction_of_a_sample(early_us: float) -> None:
    found = check.compare(recording("a", early_us=early_us), recording("b", early_us=0.0, drift_ppm=50.0))
    assert len(found) == 5
    assert all(abs(lag - early_us * 1e3) < 2e3 for _, lag, _ in found)
    assert all(told == pytest.approx(early_us * 1e3) for _, _, told in found)


def test_the_spread_is_from_the_first_to_the_last() -> None:
    recordings = [recording("a", early_us=10.0), recording("b", early_us=-40.0), recording("c", early_us=0.0)]
    _, width = check.spread(recordings)
    assert width == pytest.approx(50e3)
    report = check.judge(recordings)
    assert report["skew_p99_us"] == pytest.approx(50.0)
    assert report["told_wrong_max_us"] < 2.0
    assert report["compared"] == 10


def test_who_tells_wrong_things_is_found_out() -> None:
    report = check.judge([recording("a", early_us=100.0, told_us=0.0), recording("b", early_us=0.0)])
    assert report["skew_max_us"] == pytest.approx(0.0)
    assert report["told_wrong_p50_us"] == pytest.approx(100.0, abs=2.0)


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
        "skew": check.judge(recordings),
        "receivers": [{"name": "a<script>", "lost": 0}],
    }
    pictures.write_page(report, pictures.draw(recordings, tmp_path), tmp_path)
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
