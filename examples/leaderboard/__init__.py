"""A leaderboard with a rate limit. Start reading in `server.py`."""
