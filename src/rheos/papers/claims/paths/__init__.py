"""Claims about paths."""
