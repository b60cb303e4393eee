"""From start to /ready with the default model, and what an idle server costs.

    uv run python benchmarks/start_up.py [--rounds 3]

Absolute times of one machine: they tell whether the bounds of 10 s and of 1 % of a core hold there.
"""

import argparse
import os
import statistics
import subprocess
import time

from common import save
from http_overhead import launch

IDLE_SECONDS = 20.0


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """User and system time of a process so far, from /proc."""
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", default=None)
    args = parser.parse_args()
    starts, idles = [], []
    for _ in range(args.rounds):
        started = time.perf_counter()
        server, _ = launch([])
        starts.append(time.perf_counter() - started)
        time.sleep(3)
        before = cpu_seconds(server)
        time.sleep(IDLE_SECONDS)
        idles.append((cpu_seconds(server) - before) / IDLE_SECONDS)
        server.terminate()
        server.wait()
    result = {
        "ready_seconds": statistics.median(starts),
        "idle_share_of_a_core": statistics.median(idles),
    }
    print(result)
    if args.save:
        save(args.save, result)


if __name__ == "__main__":
    main()
