"""Numbers of generated examples, which depend on the Hypothesis profile."""

import os


def examples(count: int) -> int:
    """`count` examples; a sixth of them with HYPOTHESIS_PROFILE=fast, as in `make test-fast`."""
    return max(2, count // 6) if os.environ.get("HYPOTHESIS_PROFILE") == "fast" else count
