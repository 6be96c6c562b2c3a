import pytest
from absl import app

from launch import list as listing


def test_everything_has_a_line_of_its_own(capsys):
    listing.main(['rlra-list'])
    told = capsys.readouterr().out
    for name, (given, entries) in listing.SECTIONS.items():
        assert f'{name} ({given})' in told
        assert all(line for key, line in entries().items() if key != 'identity')


def test_some_sections(capsys):
    listing.main(['rlra-list', 'rules'])
    told = capsys.readouterr().out
    assert 'mirror   E learns the Jacobian between its regions' in told
    assert 'learners' not in told


def test_a_section_that_there_is_not():
    with pytest.raises(app.UsageError, match='no section rule; there are learners, rules'):
        listing.main(['rlra-list', 'rule'])
