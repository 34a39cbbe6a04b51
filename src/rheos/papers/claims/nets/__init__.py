"""Claims about nets."""
