"""Numbers of generated examples, which depend on the Hypothesis profile."""

from hypothesis import settings

DEFAULT_EXAMPLES = 100
"""Examples of a property that sets no number, by Hypothesis' own default."""


def examples(count: int) -> int:
    """`count` examples; proportionally fewer with a profile that draws fewer than DEFAULT_EXAMPLES, but at least 2."""
    return max(2, count * settings.default.max_examples // DEFAULT_EXAMPLES)
