"""Claims about guidance."""
