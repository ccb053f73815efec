"""What threads cost that store through a raw view: np.matmul into one, beside np.matmul into a plain array.

    python benchmarks/threads.py            # with one thread of BLAS, and with as many as there are processors
    python benchmarks/threads.py 1000 30    # order of the matrix, requests

Each line: the median of a request into the view from the third on, of the plain product, and their ratio and difference.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time


def measure(order: int, requests: int) -> None:
    """Print one line, for the number of threads that the environment asks for."""
    import numpy as np

    from recoverable import Arena, Array

    a = np.random.default_rng(1).random((order, order))
    plain = np.empty((order, order))
    took: dict[str, list[float]] = {"view": [], "plain": []}

    with Arena.temporary("256 MiB") as arena:
        with arena.transaction():
            arena.root["m"] = Array((order, order), "f8")

        async def product() -> None:
            np.matmul(a, a, out=arena.root["m"].view)

        async def main() -> None:
            for i in range(requests):
                begun = time.perf_counter()
                await arena.run(product)
                view = time.perf_counter()
                np.matmul(a, a, out=plain)
                if i >= 2:
                    took["view"].append(view - begun)
                    took["plain"].append(time.perf_counter() - view)

        asyncio.run(main())
        assert (arena.root["m"][:] == plain).all()
        view, alone = (statistics.median(took[way]) * 1e3 for way in ("view", "plain"))
        threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
        print(
            f"{threads:>4} threads: view {view:.1f} ms, plain {alone:.1f} ms, {view / alone:.2f} x, {view - alone:.1f} ms more; "
            f"{arena.stats().traps} traps, {arena.stats().pages_captured} captured"
        )


if __name__ == "__main__":
    order, requests = (int(n) for n in (sys.argv[1:] + ["1000", "20"][len(sys.argv) - 1 :])[:2])
    if "RECOVERABLE_BENCHMARK_CHILD" in os.environ:
        measure(order, requests)
    else:
        for threads in ("1", str(os.cpu_count())):
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "RECOVERABLE_BENCHMARK_CHILD": "1"}
            subprocess.run([sys.executable, "-P", __file__, str(order), str(requests)], env=environment, check=True)
