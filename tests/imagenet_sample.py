"""A small `imagenet2012` as TFDS prepares it: array_record files of JPEGs of any size, and their descriptions."""

import json

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from sklearn.datasets import load_sample_images
from tensorflow_datasets.proto import tf_example_pb2

FEATURES = {
    'image': ('image_feature.Image', {'image': {'dtype': 'uint8', 'encodingFormat': 'jpeg', 'shape': {}}}),
    'label': ('class_label_feature.ClassLabel', {'classLabel': {'numClasses': '1000'}}),
    'file_name': ('text_feature.Text', {'text': {}}),
}
SHARDS = 2
CLASSES = 2


def photographs(count, seed=0):
    """(RGB image of some size, label) for each: parts of scikit-learn's two photographs, which are the classes."""
    rng = np.random.default_rng(seed)
    images = load_sample_images().images
    for i in range(count):
        height, width = rng.integers(60, 300, 2)
        top, left = rng.integers(427 - height), rng.integers(640 - width)
        yield images[i % CLASSES][top : top + height, left : left + width], 500 + i % CLASSES


def jpeg(image):
    return cv2.imencode('.jpg', image[..., ::-1])[1].tobytes()


def write(data_dir, *, train=60, splits=('train', 'validation'), damage=lambda split, i, encoded: encoded):
    """Writes data_dir/imagenet2012/5.1.0; `damage` returns what to store for the i-th image of a split."""
    folder = data_dir / 'imagenet2012' / '5.1.0'
    folder.mkdir(parents=True)
    told = []
    for split in splits:
        count = {'train': train, 'validation': 10}[split]
        records = [
            example(damage(split, i, jpeg(image)), label, f'{split}_{i}.JPEG')
            for i, (image, label) in enumerate(photographs(count, seed=count))
        ]
        shards = np.array_split(np.arange(count), SHARDS)
        for k, shard in enumerate(shards):
            name = f'imagenet2012-{split}.array_record-{k:05d}-of-{SHARDS:05d}'
            writer = ArrayRecordWriter(str(folder / name), 'group_size:1')
            for i in shard:
                writer.write(records[i])
            writer.close()
        sizes = {'numBytes': str(sum(map(len, records))), 'shardLengths': [str(len(shard)) for shard in shards]}
        told.append({'name': split, 'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}', **sizes})
    info = {'fileFormat': 'array_record', 'moduleName': 'imagenet2012', 'name': 'imagenet2012', 'version': '5.1.0'}
    (folder / 'dataset_info.json').write_text(json.dumps({**info, 'splits': told}))
    core = 'tensorflow_datasets.core.features.'
    features = {key: {'pythonClassName': core + kind, **entry} for key, (kind, entry) in FEATURES.items()}
    whole = {'pythonClassName': f'{core}features_dict.FeaturesDict', 'featuresDict': {'features': features}}
    (folder / 'features.json').write_text(json.dumps(whole))


def example(image, label, file_name):
    """A tf.train.Example, serialized."""
    made = tf_example_pb2.Example()
    made.features.feature['image'].bytes_list.value.append(image)
    made.features.feature['label'].int64_list.value.append(label)
    made.features.feature['file_name'].bytes_list.value.append(file_name.encode())
    return made.SerializeToString()
