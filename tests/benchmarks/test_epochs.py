import types

import pytest

from benchmarks import epochs


def test_rounds_are_interleaved_after_a_warm_up_and_relative_to_the_first_method(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr(epochs, 'time', types.SimpleNamespace(perf_counter=lambda: clock[0]))

    def method(name, *seconds):
        waiting = iter((100.0, *seconds))  # a first call takes longer, and counts for nothing

        def run(*inputs):
            assert inputs == (name,)
            calls.append(name)
            clock[0] += next(waiting)

        return run, (name,)

    methods = {'backprop': method('backprop', 1.0, 2.0, 1.0), 'other': method('other', 3.0, 4.0, 5.0)}
    first, second = epochs.time_rounds(methods, rounds=3)
    assert calls == ['backprop', 'other'] * 4
    assert first == {
        'method': 'backprop',
        'ratio_to_backprop': 1.0,
        'ratio_min': 1.0,
        'ratio_max': 1.0,
        'seconds': 1.0,
    }
    assert [second[f'ratio_{which}'] for which in ('min', 'to_backprop', 'max')] == pytest.approx([2.0, 3.0, 5.0])
    assert second['seconds'] == pytest.approx(4.0)
