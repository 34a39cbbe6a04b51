"""Claims about couplings."""
