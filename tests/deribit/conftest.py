"""Hypothesis without a deadline per example, because timings are meaningless on a busy machine."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
