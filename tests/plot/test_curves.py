import numpy as np
import pytest

from rlra_jax import plot
from rlra_jax.plot.curves import _apart


@pytest.mark.parametrize(
    ('wanted', 'expected'),
    [
        ([0.2, 0.5], [0.2, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.5, 0.52], [0.40666667, 0.50666667, 0.60666667]),
        ([0.0, 0.0], [0.0, 0.1]),
        ([1.0, 1.0], [0.9, 1.0]),
    ],
)
def test_names_do_not_lie_on_each_other(wanted, expected):
    found = _apart(dict(enumerate(wanted)), 0.1)
    np.testing.assert_allclose(list(found.values()), expected)


def test_they_stand_in_the_order_of_their_curves():
    rng = np.random.default_rng(0)
    wanted = dict(enumerate(rng.uniform(size=30)))
    places = _apart(wanted, 0.05)
    assert sorted(places, key=places.get) == sorted(wanted, key=wanted.get)
    assert np.diff(sorted(places.values())).min() > 0.0499


@pytest.mark.parametrize(('lowest', 'bottom'), [(0.0, 0.0), (2.0, 1.6)])
def test_the_axis_of_errors_reaches_nothing_only_where_they_do(lowest, bottom):
    figure = plot.curves({'data': {'one': plot.Curve([1, 2], [50, lowest])}}, log=True)
    assert figure.axes[0].get_ylim()[0] == pytest.approx(bottom)


def test_errors_that_hardly_fall_have_a_linear_axis():
    figure = plot.curves({'data': {'one': plot.Curve([1, 2], [98, 95])}}, log=True)
    assert figure.axes[0].get_yscale() == 'linear'


def test_more_curves_than_colours_differ_by_their_dashes():
    named = {str(i): plot.Curve([1, 2], [i, i + 1]) for i in range(12)}
    lines = plot.curves({'data': named}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12


def test_the_axis_of_errors_is_that_of_what_is_finite():
    curves = {'one': plot.Curve([1, 2, 3], [50, np.nan, 2])}
    assert plot.curves({'data': curves}, log=True).axes[0].get_ylim()[0] == pytest.approx(1.6)
    lost = {'one': plot.Curve([1, 2], [np.nan, np.nan])}
    assert plot.curves({'data': lost}, log=True).axes[0].get_yscale() == 'linear'


def test_without_a_panel():
    with pytest.raises(ValueError, match=r'panels must be one or more; got \{\}'):
        plot.curves({})
