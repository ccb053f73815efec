"""Runnable servers, each of them short, each of them run by a test with real requests."""
