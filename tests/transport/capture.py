"""Packets of a connection as a capture file, and what tshark reads in it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

TSHARK = shutil.which("tshark")


def write_capture(path: Path, packets: Iterable[tuple[bool, bytes]]) -> None:
    """Write a pcap file.

    Args:
        path: of the file.
        packets: in order: from the client?, UDP payload.
    """
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101))  # 101: raw IP
        for index, (from_client, data) in enumerate(packets):
            packet = _ip_packet(data, from_client=from_client)
            file.write(struct.pack("<IIII", 1_000_000_000, index, len(packet), len(packet)) + packet)


def dissect(path: Path, keys: Path, field: str) -> list[str]:
    """Return the values of a field that tshark finds with the keys, one for each packet that has it."""
    assert TSHARK is not None
    command = [TSHARK, "-r", str(path), "-o", f"tls.keylog_file:{keys}", "-d", "udp.port==4433,quic", "-T", "fields"]
    done = subprocess.run([*command, "-e", field], check=True, capture_output=True, text=True, timeout=60)
    return [line for line in done.stdout.splitlines() if line]


def _ip_packet(data: bytes, *, from_client: bool) -> bytes:
    client, server = (bytes((192, 0, 2, 1)), 50_000), (bytes((192, 0, 2, 2)), 4433)
    (source, source_port), (destination, destination_port) = (client, server) if from_client else (server, client)
    udp = struct.pack("!HHHH", source_port, destination_port, 8 + len(data), 0)  # 0: no checksum
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0, source, destination)
    return head + udp + data
