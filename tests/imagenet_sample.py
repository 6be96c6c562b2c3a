"""A small `imagenet2012` as TFDS prepares it: array_record files of JPEGs of any size, and their descriptions."""

import cv2
import numpy as np
import prepared
from sklearn.datasets import load_sample_images

FEATURES = {
    'image': ('image_feature.Image', {'image': {'dtype': 'uint8', 'encodingFormat': 'jpeg', 'shape': {}}}),
    'label': ('class_label_feature.ClassLabel', {'classLabel': {'numClasses': '1000'}}),
    'file_name': ('text_feature.Text', {'text': {}}),
}
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
    records = {}
    for split in splits:
        count = {'train': train, 'validation': 10}[split]
        records[split] = [
            prepared.example(damage(split, i, jpeg(image)), label, file_name=f'{split}_{i}.JPEG')
            for i, (image, label) in enumerate(photographs(count, seed=count))
        ]
    return prepared.write(data_dir, 'imagenet2012', '5.1.0', FEATURES, records)
