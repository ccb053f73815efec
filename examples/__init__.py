"""Runnable servers, each of them short, each of them run by a test with real requests.

| start it with                    | it teaches                                                                       |
|----------------------------------|----------------------------------------------------------------------------------|
| `python -m examples.bank`        | a transfer is all or nothing, whatever crashes in its middle                     |
| `python -m examples.shop`        | sessions and carts; mail leaves only after the commit (`after_commit`)           |
| `python -m examples.chat`        | WebSockets: one transaction a message, and a history that survives               |
| `python -m examples.leaderboard` | one hot spot for everybody, and a rate limit that must not be rolled back        |
| `python -m examples.features`    | a numpy matrix that is changed in place, by raw writes, and undone all the same  |

Each takes `--port`, `--name` (of its arena: the same name finds the same state), `--size` and `--crash-rate`, and prints
one line of JSON with its address when it is ready. `server.py` is the example; `load.py` beside it is a client: `visit()`
does one customer's errand and `problems()` looks for broken invariants. The rest is shared:

| file         | question it answers                                             |
|--------------|-----------------------------------------------------------------|
| `serving.py` | how is a server started, and how is a handler made to crash?    |
| `process.py` | how does a program start, kill and restart one of them?         |

Run them from the folder that has `examples/` in it, with `recoverable` installed.
"""
