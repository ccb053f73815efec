"""A shop: sessions, carts, orders, and mail that leaves once an order stands. Start reading in `server.py`."""
