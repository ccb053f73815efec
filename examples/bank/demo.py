"""Drive the bank with clients that misbehave, kill it again and again, and count the money.

    python -m examples.bank.demo [--seconds 12] [--kills 5] [--cuts 3] [--clients 16] [--server fastapi_bank] [--seed N]

Clients transfer money at random. Some of their requests raise, answer 500, time out or are cancelled between the debit
and the credit; some clients hang up before the answer. Meanwhile the server is killed: by SIGKILL from outside at a
random moment, or in the middle of a transfer, when the debit is made and the credit is not. Each time it is started
again on the same arena.

Then the same with a journal: each answer waits until it is on the disk, and the server is killed *and its shared memory
deleted*, as a power cut would. It comes back from the journal. Exit status 0 only if at the end of both

- the total is what it was at the beginning,
- the transfers in the audit explain every balance to the cent,
- every transfer that was answered 200 is there, also after the process that answered has been killed,
- none is there whose handler crashed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys

import uvloop

from .acts import Kills, PowerCuts, Progress


async def run(options: argparse.Namespace) -> int:
    """Run both acts and leave nothing behind, whatever happens."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    sound = True
    for act, title in ((Kills, "The server is killed"), (PowerCuts, 'The power is cut: durable="disk"')):
        print(f"\n{title}\n", flush=True)
        sound = await act(options, Progress()).played() and sound
    if not sound:
        print(f"FAILED (seed {options.seed})")
        return 1
    print("PASSED: no money lost or made, every acknowledged transfer found, no trace of a crashed one")
    return 0


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m examples.bank.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="how long the clients work")
    parser.add_argument("--kills", type=int, default=5, help="how often the server is killed in that time")
    parser.add_argument("--cuts", type=int, default=3, help="how often its power is cut, in a third of that time")
    parser.add_argument("--clients", type=int, default=16, help="how many work at once")
    parser.add_argument("--accounts", type=int, default=200, help="fewer accounts, more conflicts")
    parser.add_argument("--server", default="bank", choices=("bank", "fastapi_bank"), help="which of the examples")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="printed if not given")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped; the server and its arena are gone")
        return 130


if __name__ == "__main__":
    sys.exit(main())
