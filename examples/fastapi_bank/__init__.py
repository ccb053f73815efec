"""The bank of `examples/bank` on FastAPI: the same money, clients and crashes, another framework.

| file         | question it answers                                                                          |
|--------------|----------------------------------------------------------------------------------------------|
| `server.py`  | how does a FastAPI server look whose state survives its own crashes?                         |
| `../bank`    | does it hold under load and `kill -9`? Run `python -m examples.bank.demo --server fastapi_bank` |
"""
