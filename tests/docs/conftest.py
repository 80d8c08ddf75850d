"""The tutorial runs commands as tests/cli does."""

from cli.conftest import multiply_adds_counted_once, short_measurements  # noqa: F401
