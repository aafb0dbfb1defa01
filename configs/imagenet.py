"""PGD adversarial training of a ResNet-50 on ImageNet at 4/255, the images streamed: the setting of Salman et al. 2020
(arXiv:2007.08489), PGD with 3 steps of 2/3 of the radius, 90 epochs, the rate divided by 10 every 30.

    python -m jaxrobust.main --config configs/imagenet.py --config.data.data_dir=DIR

DIR contains `imagenet2012`, prepared as ArrayRecord files from the two archives of image-net.org, see Large sets in
configs/README.md. The first start reads all 150 GB once, for the labels.

The batch of 256 is for 8 chips. With k times as many chips, use k times the batch size and learning rate: 16 chips
`--config.train.batch_size=512 --config.optimizer.learning_rate=0.2`; from 64 chips on, add
`--config.optimizer.warmup=0.05`. Other models: `--config.model.name=resnet18`, `resnet34`; another radius:
`--config.threat.eps_255=2 --config.attack.step_size_255=1.333`.

Cost: one epoch is 1.28 million x 9 forward passes of 8.2 GFLOP, 95 PFLOP; the host must decode as many images per
second as the devices train on. During training, 5,000 images of the validation and of the test split are scored, 5 per
class: enough for the average, not for the worst class. `--config.eval.examples=0`, given from the start, scores all
50,000 images of the test set.
Expect, from the published model: clean 64.0 %, 35.0 % under AutoAttack (RobustBench, Salman2020Do_R50).
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "tfds:imagenet2012"
    config.data.streaming = True
    config.data.image_size = 224
    config.data.augment = ("resized_crop", "flip")
    config.data.validation_per_class = 5
    config.model.name = "resnet50"
    config.model.stem = "imagenet"
    config.model.dtype = "bfloat16"
    config.model.mean = (0.485, 0.456, 0.406)
    config.model.std = (0.229, 0.224, 0.225)
    config.threat.eps_255 = 4.0
    config.attack.steps = 3
    config.attack.step_size_255 = 8 / 3
    config.train.epochs = 90
    config.train.batch_size = 256
    config.train.average_decay = 0.9999
    config.train.log_every_steps = 100
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "piecewise"
    config.optimizer.milestones = (1 / 3, 2 / 3)
    config.eval.attacks = ("clean", "pgd20")
    config.eval.examples = 5000
    config.eval.every_epochs = 5
    config.checkpoint.every_epochs = 1
    config.checkpoint.keep = 3
    return config
