"""What --help says of defaults."""

import in_process


def test_defaults_of_zero_and_of_a_newline_are_told():
    status, told = in_process.launch('launch.sample', '--help')
    assert status == 0
    words = ' '.join(told.split())
    assert r"What the text begins with. Default: '\n'." in words
    assert 'Lower is more cautious; 0: always the most probable. Default: 1.0.' in words
    assert "Which of the run's seeds, from 0; its best variables. Default: 0." in words
    assert 'Default: None' not in words
