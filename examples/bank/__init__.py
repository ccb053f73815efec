"""A bank on recoverable: the server to read first, the clients that attack it, and the demo that counts the money.

| file         | question it answers                                                                           |
|--------------|-----------------------------------------------------------------------------------------------|
| `server.py`  | how does a server look whose state survives its own crashes? Start reading here               |
| `load.py`    | what do clients see of it, and does the bank's story agree with theirs?                       |
| `demo.py`    | does it hold under load and `kill -9`? Run `python -m examples.bank.demo`                     |
| `workers.py` | how does it run a worker a core? Run `gunicorn --config examples/bank/gunicorn.conf.py`, then |
|              | `curl -d '{"id": "t1", "from": 0, "to": 1, "amount": 500}' localhost:8080/transfer`           |
"""
