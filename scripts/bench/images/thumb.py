"""SOURCE TIMES: makes thumbnails; prints one line of JSON, as the peers of the benchmark do."""

import json
import sys
import time
from io import BytesIO
from pathlib import Path

from ghost.files.images import Limits, Variant, inspect, make_variant

raw = Path(sys.argv[1]).read_bytes()
times = int(sys.argv[2])
variant = Variant("thumb", 256, 256, quality=85)
limits = Limits()
# Peers have imported Pillow before they start; this does it, with another picture.
inspect(BytesIO(bytes.fromhex(
    "47494638396101000100800000000000ffffff2c00000000010001000002024401003b"
)), limits)  # fmt: skip


def status(name: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def thumbnail() -> tuple[int, int]:
    made = make_variant(BytesIO(raw), variant, "image/jpeg", limits)
    return made.info.width, made.info.height


Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
size = thumbnail()
if size != (256, 192):
    raise SystemExit(f"wrong size: {size}")
growth = status("VmHWM") - before
start, cpu = time.perf_counter(), time.process_time()
for _ in range(times):
    thumbnail()
figures = {
    "ms": (time.perf_counter() - start) * 1000 / times,
    "cpu_ms": (time.process_time() - cpu) * 1000 / times,
    "growth_mib": growth,
    "peak_mib": status("VmHWM"),
}
print(json.dumps(figures))
