"""Conformance suites for methods written on rheos' contracts: run them on your own."""
from rheos.testing.conformance import LINES, Line, check_dynamics, rows
from rheos.testing.discovery import discover, public_dynamics
from rheos.testing.orders import observed_order

__all__ = ["LINES", "Line", "check_dynamics", "discover", "observed_order", "public_dynamics", "rows"]
