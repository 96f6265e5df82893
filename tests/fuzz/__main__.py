"""`python -m tests.fuzz SECONDS [TARGET...]`: every target in a process of its own, led by the coverage it reaches.

What makes a target fail is written to a file whose name is printed; `python -m tests.fuzz FILE TARGET` feeds it again.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS, seeds

LONGEST = 30
"""Seconds after which one input has held up its target, which is a failure."""
START = 120
"""Seconds that a target's process may take beside its search."""


def main(arguments: list[str]) -> int:
    """Feed each target for so many seconds; 1 when one failed."""
    first, *names = arguments
    if Path(first).is_file():
        TARGETS[names[0]](Path(first).read_bytes())
        return 0
    failed = [name for name in names or TARGETS if _search(name, int(first))]
    print(f"failed: {', '.join(failed)}" if failed else f"{len(names or TARGETS)} targets held for {first} s each")
    return bool(failed)


def _search(name: str, seconds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        code = "import sys; from tests.fuzz.search import search; search(sys.argv[1], sys.argv[2:])"
        flags = [f"-max_total_time={seconds}", f"-timeout={LONGEST}", "-max_len=8192", f"-artifact_prefix={name}-"]
        try:
            return subprocess.run(
                [sys.executable, "-c", code, name, folder, *flags], check=False, timeout=seconds + LONGEST + START
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{name} did not end in time")
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
