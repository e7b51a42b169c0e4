"""Deadlines of tests: how long they wait for what does not come.

A deadline only ends a test that hangs. A busy machine needs many times as long as a quiet one, so both deadlines are
far beyond what any machine needs. A test that is about a time limit sets the product's own limit instead.
"""

DEADLINE_S = 120.0
"""Seconds for one condition, one program or one answer."""
TEST_DEADLINE_S = 300.0
"""Seconds for all that one test does."""
