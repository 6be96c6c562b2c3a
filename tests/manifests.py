"""Checks launch/*.yaml against the schemas of the kinds that they make, without a cluster. Unknown fields are errors.

git clone --depth=1 https://github.com/kubernetes-sigs/jobset
git clone --depth=1 https://github.com/kubernetes-sigs/kueue
pip install jsonschema pyyaml
python tests/manifests.py {jobset,kueue}/config/components/crd/bases/*.yaml
"""

import pathlib
import sys

import yaml

LAUNCH = pathlib.Path(__file__).parents[1] / 'launch'


def documents():
    """What the manifests hold: [(file name, document)]."""
    files = sorted(LAUNCH.glob('*.yaml'))
    return [(path.name, document) for path in files for document in yaml.safe_load_all(path.read_text())]


def closed(schema):
    """The schema, in which objects have no fields but those that it names."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if found.get('x-kubernetes-int-or-string'):
        return {'type': ['integer', 'string']}
    if isinstance(schema.get('properties'), dict) and not schema.get('x-kubernetes-preserve-unknown-fields'):
        found.setdefault('additionalProperties', False)
    return found


def check(definitions):
    """Raises where a document is none of its kind's schema."""
    import jsonschema

    schemas = {}
    for path in definitions:
        spec = yaml.safe_load(pathlib.Path(path).read_text())['spec']
        for version in spec['versions']:
            schema = closed(version['schema']['openAPIV3Schema'])
            schema['properties']['metadata'] = {'type': 'object'}  # the cluster's own
            schemas[f'{spec["group"]}/{version["name"]}', spec['names']['kind']] = schema
    for name, document in documents():
        kind = document['apiVersion'], document['kind']
        jsonschema.Draft202012Validator(schemas[kind]).validate(document)
        print(name, *kind, document['metadata']['name'], 'fits')


if __name__ == '__main__':
    check(sys.argv[1:])
