"""Fast adversarial training of a ResNet-50 on ImageNet at 4/255: one step of 1.25 times the radius from a random start,
15 epochs, as in Wong et al. 2020 (arXiv:2001.03994), but with a constant image size.

    python -m jaxrobust.main --config configs/imagenet_fast.py --config.data.data_dir=DIR

Data, batch size, scored images and variants are as in imagenet.py. At 2/255: `--config.threat.eps_255=2
--config.attack.step_size_255=2.5`. One-step training can fail by catastrophic overfitting: robust accuracy falls to
almost 0 while clean accuracy jumps. A warning is printed after such an epoch; `--config.attack.steps=2`, or a smaller
step, helps.

Cost: one epoch is 1.28 million x 5 forward passes of 8.2 GFLOP, 53 PFLOP. The 15 epochs cost a tenth of imagenet.py,
but the host must decode nearly twice as many images per second. Published, for images that grow from 128 to 288 pixels
during training: clean 55.6 %, 26.2 % under AutoAttack (RobustBench, Wong2020Fast).
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
    config.attack.steps = 1
    config.attack.step_size_255 = 5.0
    config.train.epochs = 15
    config.train.batch_size = 256
    config.train.average_decay = 0.9999
    config.train.log_every_steps = 100
    config.optimizer.learning_rate = 0.2
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "one_cycle"
    config.eval.attacks = ("clean", "pgd20")
    config.eval.examples = 5000
    config.eval.every_epochs = 5
    config.checkpoint.every_epochs = 1
    config.checkpoint.keep = 3
    return config
