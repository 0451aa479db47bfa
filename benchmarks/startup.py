"""How long the commands take that do no work: `compress --help` and `compress recipes ls`. Goal: under 0.5 s each.

python benchmarks/startup.py --rounds 9
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = (["--help"], ["recipes", "ls"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each command, after one that is not")
    rounds = parser.parse_args().rounds
    for command in COMMANDS:
        seconds = [_seconds([sys.executable, "-m", "compressor", *command]) for _ in range(rounds + 1)][1:]
        name = "compress " + " ".join(command)
        print(f"{name:<24} median {statistics.median(seconds):.3f} s, fastest {min(seconds):.3f} s of {rounds}")
    bare = [_seconds([sys.executable, "-c", "pass"]) for _ in range(rounds)]
    print(f"{'python -c pass':<24} median {statistics.median(bare):.3f} s")


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
