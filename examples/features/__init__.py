"""A feature matrix that is changed in place by numpy. Start reading in `server.py`."""
