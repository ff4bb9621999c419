"""The conformance suite: what must hold for every method, as small named checks.

`check_method(MyMethod)` returns one `Outcome` per check; `checks_of(MyMethod)` returns the checks
themselves, for a test that is parametrised over them. Needs no test framework.
"""

from bench.testing.outcome import Outcome, Status
from bench.testing.suite import CHECKS, Check, check_method, checks_of

__all__ = ["CHECKS", "Check", "Outcome", "Status", "check_method", "checks_of"]
