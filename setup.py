"""Installs rlra_jax; tools are configured in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'rlra_jax' / '__init__.py').read_text(encoding='utf-8')).group(1)

DATA = [
    'array-record; platform_system == "Linux"',
    'grain>=0.2.18',
    'opencv-python-headless',
    'scikit-learn',
    'tensorflow-datasets>=4.9.10',
]
LAUNCH = [
    'absl-py',
    'etils[epath]',
    'filelock',
    'matplotlib',
    'ml-collections',
    'orbax-checkpoint>=0.11',
    'psutil',
    'tensorboardX',
    'tqdm',
    *DATA,
]
DEV = ['chex', 'mypy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff', *LAUNCH]

setup(
    name='rlra_jax',
    version=VERSION,
    description='Deep networks trained without backpropagation: recursive local representation alignment in JAX.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    python_requires='>=3.11',
    packages=find_packages(include=['rlra_jax', 'rlra_jax.*']),
    package_data={'rlra_jax': ['py.typed']},
    install_requires=['flax>=0.12.8', 'jax>=0.10.2', 'numpy', 'optax>=0.2.8'],
    extras_require={
        'cuda': ['jax[cuda13]'],
        'data': DATA,
        'dev': DEV,
        'launch': LAUNCH,
        'tpu': ['jax[tpu]'],
    },
)
