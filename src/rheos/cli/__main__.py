"""`python -m rheos.cli` is `rheos`."""
from rheos.cli import main

if __name__ == "__main__":
    main()
