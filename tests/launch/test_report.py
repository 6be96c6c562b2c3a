"""A page of runs, as a user asks for it."""

import base64
import re
from html.parser import HTMLParser

import in_process
import pytest
from absl import app

from configs import digits, shakespeare
from launch import cli
from rlra_jax.experiment import page as page_module
from rlra_jax.experiment.data import make_text
from rlra_jax.experiment.page import page
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.storage import open_path
from rlra_jax.experiment.train import train


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('runs')
    small = 'epochs=2,num_seeds=2,model.widths=(8,6),diagnostics=True'
    for learner in ('rec_lra', 'backprop'):
        train(digits.get_config(f'{small},learner={learner}'), tmp / learner)
    return [open_path(tmp / learner) for learner in ('rec_lra', 'backprop')]


class Tags(HTMLParser):
    """Raises where tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_needs_no_other_file(workdirs):
    text = page(workdirs)
    tags = Tags(text)
    images = [attributes for tag, attributes in tags.found if tag == 'img']
    assert all(image['src'].startswith('data:image/svg+xml;base64,') and image['alt'] for image in images)
    # of both: curves; of each: angles, alignment where synapses learn, confusion; of rec_lra: network and histograms
    assert [image['alt'] for image in images] == [
        'training and validation error against epoch',
        *('regions and error pathways', 'angle against epoch', 'alignment against epoch'),
        'histograms, region by region',
        'what each class of the test data is taken for',
        'angle against epoch',
        'what each class of the test data is taken for',
    ]
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert '<h2>rec_lra</h2>' in text
    assert '<td style="text-align: left">learner.beta</td>' in text
    assert '<td style="text-align: left">versions.jax</td>' in text


def test_the_launcher_writes_it(workdirs, tmp_path):
    out = tmp_path / 'new' / 'page.html'
    assert in_process.launch('launch.report', f'--out={out}', workdirs[1]) == (0, f'Report: {out}\n')
    assert out.read_text().startswith('<!doctype html>')


def test_an_unfinished_run(tmp_path):
    with pytest.raises(app.UsageError, match=r'no result\.json in'):
        cli.finished([str(tmp_path)])
    with pytest.raises(app.UsageError, match='name the workdirs'):
        cli.finished([])


@pytest.mark.full
def test_a_run_on_a_text_has_a_page(tmp_path, monkeypatch):
    data = make_text('lines', 'the cat sat on the mat. ' * 20, 'the cat sat on the mat. ' * 20, 'the cat ' * 4)
    small = 'quick=True,epochs=1,batch_size=8,num_seeds=1,model.width=8,model.depth=1,model.heads=2,model.context=8'
    config = shakespeare.get_config(f'{small},train_examples=0')
    config.dataset = 'lines'
    train(config, tmp_path / 'run', data)
    monkeypatch.setattr(page_module, 'restore', lambda workdir: restore(workdir, data))
    text = page([open_path(tmp_path / 'run')])
    assert 'histograms, region by region' in text
    *_, confusion = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', text)
    assert "<!-- 'h' -->" in base64.b64decode(confusion).decode()  # classes are characters
