"""Small data sets as TFDS prepares them: array_record files, and their descriptions."""

import json

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

SHARDS = 2


def write(data_dir, name, version, features, splits):
    """Writes data_dir/name/version, which is returned; features: {key: (kind, entry)}, splits: {name: records}."""
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    told = []
    for split, records in splits.items():
        shards = np.array_split(np.arange(len(records)), SHARDS)
        for k, shard in enumerate(shards):
            file = folder / f'{name}-{split}.array_record-{k:05d}-of-{SHARDS:05d}'
            writer = ArrayRecordWriter(str(file), 'group_size:1')
            for i in shard:
                writer.write(records[i])
            writer.close()
        sizes = {'numBytes': str(sum(map(len, records))), 'shardLengths': [str(len(shard)) for shard in shards]}
        told.append({'name': split, 'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}', **sizes})
    info = {'fileFormat': 'array_record', 'moduleName': name, 'name': name, 'version': version}
    (folder / 'dataset_info.json').write_text(json.dumps({**info, 'splits': told}))
    core = 'tensorflow_datasets.core.features.'
    described = {key: {'pythonClassName': core + kind, **entry} for key, (kind, entry) in features.items()}
    whole = {'pythonClassName': f'{core}features_dict.FeaturesDict', 'featuresDict': {'features': described}}
    (folder / 'features.json').write_text(json.dumps(whole))
    return folder


def example(image, label, file_name=None):
    """A tf.train.Example, serialized."""
    made = tf_example_pb2.Example()
    made.features.feature['image'].bytes_list.value.append(image)
    made.features.feature['label'].int64_list.value.append(label)
    if file_name is not None:
        made.features.feature['file_name'].bytes_list.value.append(file_name.encode())
    return made.SerializeToString()


def grey(count, seed=0):
    """(image uint8 [28, 28, 1], label) of ten classes."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, (28, 28, 1)).astype(np.uint8), i % 10) for i in range(count)]


def mnist(data_dir, *, train=2100, test=20, damage=lambda split, i, encoded, label: (encoded, label)):
    """Writes data_dir/mnist/3.0.1 of noise; `damage` returns what to store for the i-th example of a split."""
    features = {
        'image': ('image_feature.Image', {'image': {'dtype': 'uint8', 'encodingFormat': 'png'}}),
        'label': ('class_label_feature.ClassLabel', {'classLabel': {'numClasses': '10'}}),
    }
    records = {
        split: [
            example(*damage(split, i, cv2.imencode('.png', image)[1].tobytes(), label))
            for i, (image, label) in enumerate(grey(count, seed=count))
        ]
        for split, count in (('train', train), ('test', test))
    }
    return write(data_dir, 'mnist', '3.0.1', features, records)


def text(data_dir, name, splits):
    """Writes data_dir/name/1.0.0 of texts; splits: {name: [bytes]}."""
    records = {split: [_text_example(text) for text in texts] for split, texts in splits.items()}
    return write(data_dir, name, '1.0.0', {'text': ('text_feature.Text', {'text': {}})}, records)


def _text_example(text):
    made = tf_example_pb2.Example()
    made.features.feature['text'].bytes_list.value.append(text)
    return made.SerializeToString()
