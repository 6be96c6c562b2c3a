from benchmarks import soak
from rlra_jax.experiment.data import first_examples, load


def test_a_long_run_does_not_grow(tmp_path):
    """`python -m benchmarks.soak` does so for longer."""
    rows = soak.measure(tmp_path, first_examples(load('digits'), 100), epochs=400, looks=4)
    assert [row['epoch'] for row in rows] == [100, 200, 300, 400]
    first, middle, _, end = rows
    for count in ('open_files', 'threads'):  # some come and go; one kept at each checkpoint would be 200 more
        assert end[count] < max(first[count], middle[count]) + 10, rows
    assert end['resident_bytes'] - middle['resident_bytes'] < 8e6, rows  # 40 kB an epoch; a leak once had 54
