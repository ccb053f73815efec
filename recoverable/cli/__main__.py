"""`python -m recoverable.cli`: the command where its script is not on the path."""

from recoverable.cli import main

main()
