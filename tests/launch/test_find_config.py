import pytest

import configs
from configs import digits
from launch import find_config


def test_a_name_and_a_path_are_the_same_module():
    assert find_config.load(find_config.find('digits')) is digits
    assert find_config.load(find_config.find(digits.__file__)) is digits


def test_what_configs_share_is_none_of_them():
    loaded = map(find_config.load, map(find_config.find, find_config.names()))
    assert [module.__name__ for module in loaded if not callable(getattr(module, 'get_config', None))] == []


def test_what_has_rows_is_an_experiment():
    assert {'digits', 'mlp', 'table1'} <= set(find_config.names())
    assert set(find_config.names()) - set(find_config.experiments()) >= {
        'digits',
        'mnist',
        'pixels',
    }  # which has `rows`
    assert configs.__doc__


def test_a_file_of_ones_own_may_have_any_suffix(tmp_path):
    (tmp_path / 'mine.txt').write_text('from configs import common\nfound = common.base')
    assert callable(find_config.load(find_config.find(str(tmp_path / 'mine.txt'))).found)


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('digts', ValueError, "unknown config 'digts'; known: digits, cifar10"),
        ('digits.py', FileNotFoundError, 'there is no config file digits.py; of ours there are cifar10, '),
        ('mine/digits', FileNotFoundError, 'there is no config file mine/digits; of ours'),
    ],
)
def test_what_there_is_not(name, error, message):
    with pytest.raises(error, match=message):
        find_config.find(name)
