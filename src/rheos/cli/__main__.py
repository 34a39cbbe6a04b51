"""`python -m rheos.cli` is `rheos`."""
from rheos.cli import main

main()
