"""`python -m broker.cli`: the command where its script is not on PATH."""

from broker.cli import main

main()
