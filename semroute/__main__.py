"""`python -m semroute` is the command `semroute`."""

from semroute.cli import main

main()
