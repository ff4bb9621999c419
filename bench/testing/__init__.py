"""The conformance suites: what must hold for every method, and for every backbone.

`check_method(MyMethod)` returns one `CheckResult` per check; `checks_of(MyMethod)` returns the
checks themselves, for a test that is parametrised over them, and `backbone_checks(name)` those of a
backbone. Needs no test framework.
"""

from bench.testing.backbones import backbone_checks
from bench.testing.outcome import CheckResult, Status
from bench.testing.suite import CHECKS, Check, check_method, checks_of

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "Status",
    "backbone_checks",
    "check_method",
    "checks_of",
]
