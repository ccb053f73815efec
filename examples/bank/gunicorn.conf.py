"""The bank under gunicorn, a worker a core: `gunicorn --config examples/bank/gunicorn.conf.py`."""

import os

wsgi_app = "examples.bank.workers:make_worker"
worker_class = "aiohttp.GunicornUVLoopWebWorker"
workers = os.cpu_count()
bind = "127.0.0.1:8080"
timeout = 15  # seconds that a worker may stand still; longer than the arena's busy_timeout
graceful_timeout = 10  # seconds that requests in flight have when a worker ends
max_requests = 100_000
max_requests_jitter = 20_000  # not all workers at once
