from rlra_jax.tables import Table

TABLE = Table(('name', 'units'), [('a->b', '8'), ('c', '1,024')], ('units',), ('A note.',))


def test_text_has_numbers_to_the_right():
    assert str(TABLE).splitlines() == [
        *('name  units', '----  -----'),
        *('a->b      8', 'c     1,024'),
        'A note.',
    ]


def test_markdown():
    lines = TABLE.markdown().splitlines()
    assert lines == ['| name | units |', '| --- | --- |', '| a->b | 8 |', '| c | 1,024 |', '', 'A note.']


def test_html_is_escaped():
    assert TABLE.html() == (
        '<table><tr><th style="text-align: left">name</th><th style="text-align: right">units</th></tr>'
        '<tr><td style="text-align: left">a-&gt;b</td><td style="text-align: right">8</td></tr>'
        '<tr><td style="text-align: left">c</td><td style="text-align: right">1,024</td></tr></table><p>A note.</p>'
    )
