"""ImageNet (ILSVRC 2012: 1,000 classes), random crops of 224 x 224, 90 epochs as in the paper's Table 3.

  python -m launch.train --config=configs/imagenet2012.py --config.data_dir=FOLDER
  python -m launch.train --config=configs/imagenet2012.py:model=resnet50,learner=backprop
  sbatch --nodes=2 launch/slurm.sh launch.train --config=configs/imagenet2012.py:batch_size=1024  # see launch/slurm.sh

FOLDER holds imagenet2012/5.1.0 as TFDS prepares it with file_format='array_record', from the two archives that
image-net.org gives to those who register. Images are read as training goes on, by each process its own. The model is
a ResNet-18 unless `model=` names another. The paper gives no rates: these are Tiny ImageNet's, untuned. Errors on the
`validation` split are reported as test errors; one in 25 training images is held out for validation.

The wiring is the paper's scheme (`modules`); synapses from the 1,000 outputs to maps are of the kind `channel`:
dense ones would be 750 million in a ResNet-18.
"""

from . import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, model='resnet18')
    config.dataset = 'imagenet2012'
    config.preprocess.contrast = True
    config.augment.flip = True  # crops are random on their own
    config.batch_size = 256
    config.epochs = 90
    config.checkpoint_steps = 500
    config.model.phi = 'relu'
    if config.model.name.endswith(('resnet18', 'resnet50')):
        config.model.stem = 'imagenet'
    if config.model.name == 'cnn':
        config.model.widths = (64, 128, 256, 256, 512, 512)
        config.model.strides = (4, 2, 2, 1, 2, 1)
    if 'dtype' in config.model:
        config.model.dtype = 'bfloat16'
    if config.learner.name == 'rec_lra':
        config.learner.wiring = 'modules'
    config.optimizer.learning_rate = 1e-3
    return common.override(config, options)
