"""Properties that hold for whatever hypothesis draws: the same draws in every run, and few enough to be quick."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    'quick',
    derandomize=True,  # a run that fails fails again
    max_examples=8,  # each compiles for its own shapes
    deadline=None,  # the first of a shape compiles
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('quick')
