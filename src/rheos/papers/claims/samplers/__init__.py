"""Claims about samplers."""
