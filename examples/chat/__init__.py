"""A chat over WebSockets whose history survives. Start reading in `server.py`."""
