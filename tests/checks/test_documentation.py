"""The documentation of validation lists the rules and limits as they are."""

from segtune.checks.rules import RULES
from segtune.core.validate_settings import ValidateLimits
from tests.documentation import ROOT, table

PAGE = ROOT / "docs/validation.md"


def test_the_documented_rules_are_those_that_exist() -> None:
    rows = [[cell.strip("`") for cell in row] for row in table(PAGE, "rule ")]
    assert rows == [[name, r.severity, r.title, r.fix] for name, r in RULES.items()]


def test_the_documented_limits_are_the_defaults() -> None:
    rows = table(PAGE, "setting of `validate.limits` ")
    documented = {row[0].strip("`"): float(row[1]) for row in rows}
    assert documented == ValidateLimits().model_dump()
    assert {row[2].strip("`") for row in rows} <= set(RULES)
