"""python -m benchmarks [--quick] [--out FOLDER] [NAME …]: run all benchmarks, or those named."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import summary
from benchmarks.harness import OUT, Settings, machine_line

# In this order; each is a module here with `run(settings) -> Report`. A process each: what one leaves behind, in the
# allocator or the page tables, is not the next one's.
ALL = [
    "compare", "instructions", "checkpoint", "step", "timelimit", "suspend", "read", "transaction", "operations", "memory",
    "ycsb", "flight", "feed", "journal", "history", "durable", "contention", "faults", "hello", "metrics", "workers", "size",
    "evaluation", "profiles", "streams", "preimages", "scattered", "servers", "parts", "hold", "scale",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(ALL)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small and short, to see that it works")
    parser.add_argument("--out", type=Path, help="where the results go (docs/benchmarks; --quick: nowhere)")
    parser.add_argument("--disk", type=Path, help="a folder on a disk, for what is to be durable (/var/tmp)")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in ALL]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
    if len(args.names) == 1:
        settings = Settings(quick=args.quick, out=args.out or (None if args.quick else OUT))
        return _one(args.names[0], replace(settings, disk=args.disk) if args.disk else settings)
    print(machine_line())
    failed = []
    for name in args.names or ALL:
        begun = time.monotonic()
        print(f"\n{name} …", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks", name]
        command += ["--quick"] * args.quick
        command += [f"--{name}={value}" for name in ("out", "disk") if (value := getattr(args, name))]
        if subprocess.run(command).returncode != 0:
            failed.append(name)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return bool(failed)


def _one(name: str, settings: Settings) -> int:
    report = importlib.import_module(f"benchmarks.{name}").run(settings)
    report.save(settings)
    if settings.out is not None:
        summary.write(ALL, settings.out)
    report.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
