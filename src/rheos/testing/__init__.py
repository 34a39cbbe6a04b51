"""Conformance suites for methods written on rheos' contracts: run them on your own."""
from rheos.testing.conformance import LINES, Line, check_dynamics, rows
from rheos.testing.couplings import COUPLING_LINES, check_coupling, coupling_rows, public_couplings
from rheos.testing.discovery import discover, public_dynamics
from rheos.testing.orders import observed_order
from rheos.testing.paths import FIELD_LINES, PATH_LINES, check_field, check_path
from rheos.testing.rules import RULE_LINES, check_rule, rule_paths

__all__ = [
    "COUPLING_LINES", "FIELD_LINES", "LINES", "PATH_LINES", "RULE_LINES", "Line", "check_coupling", "check_dynamics", "check_field", "check_path",
    "check_rule", "coupling_rows", "discover", "observed_order", "public_couplings", "public_dynamics", "rows", "rule_paths",
]
