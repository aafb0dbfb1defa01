"""The default config, field by field.

A config is plain, locked ml_collections data. A file under configs/ is the default plus a few lines:

    from jaxrobust.config import default

    def get_config():
        config = default()
        config.data.name = "tfds:cifar10"
        return config

Radii and step sizes have two fields each: `eps_255` in 1/255, as papers write them, and `eps` in pixel units of
[0, 1]. `eps`, where it is given, replaces `eps_255`. `radius()` and `step_size()` resolve them.
"""

import json
import math
import pathlib

import ml_collections
from ml_collections import config_dict

from jaxrobust import files, objectives
from jaxrobust.errors import FieldError

# An audit pushes every example to every other class, if there are no more than this.
ALL_TARGETS_UP_TO = 20


def default() -> ml_collections.ConfigDict:
    """The documented default: every field that exists. Returned locked, so a misspelt field is an error."""
    c = ml_collections.ConfigDict()

    c.data = ml_collections.ConfigDict()
    c.data.name = "digits"  # digits | tfds:NAME | arrays:FILE.npz | folder:DIR | gaussians
    c.data.data_dir = ""  # tfds only: folder of prepared data sets; empty: $TFDS_DATA_DIR, else the TFDS default
    c.data.validation_per_class = 0  # images per class held out of the training set; 0: no validation split
    c.data.seed = 0  # draws the validation split, the long-tailed subset and the Gaussian mixtures, not the training
    c.data.imbalance = "none"  # long-tailed subset of the training set, label 0 largest: none | exponential | step
    c.data.imbalance_ratio = 0.1  # its smallest class over its largest, in (0, 1]; see data/imbalance.py
    c.data.drop = ()  # classes to leave out, by name or label; in all splits
    c.data.merge = ()  # groups of classes to make one, as "cat+dog"; in all splits
    c.data.shares = ()  # of the training images of some classes, as "cat:0.5"; "*:0.5": of all others
    c.data.streaming = False  # tfds, folder: leave images in their files until needed, for sets larger than memory
    c.data.image_size = 0  # side to resize to: any if streamed, centre crop included; else a divisor; 0: as it is
    c.data.augment = ()  # of "crop", "flip", and "resized_crop" (streamed only, first); applied in the order given
    c.data.crop_scale = (0.08, 1.0)  # resized_crop: smallest and largest share of the image's area
    c.data.pad = 4  # pixels on each side before the random crop
    c.data.pad_mode = "zero"  # zero | reflect
    # For data.name = gaussians: class c is N(means[c] * 1, stddevs[c]^2 I), see data/sources/gaussians.py.
    c.data.gaussians = ml_collections.ConfigDict()
    c.data.gaussians.dimension = 100  # pixels of an image
    c.data.gaussians.means = (-0.1, 0.1)  # of every pixel, one for each class
    c.data.gaussians.stddevs = (1.0, 2.0)  # of every pixel, one for each class
    c.data.gaussians.priors = (0.5, 0.5)  # share of each class in all splits; they add up to 1
    c.data.gaussians.train_examples = 20_000
    c.data.gaussians.test_examples = 10_000
    c.data.gaussians.pixels_per_unit = 0.04  # pixel = 0.5 + pixels_per_unit * x; a radius e is e * pixels_per_unit

    c.model = ml_collections.ConfigDict()
    c.model.name = "cnn"  # linear | mlp | cnn | lenet5 | resnet18, 34, 50 | preact_resnet18 | wide_resnet
    c.model.dtype = "float32"  # of convolutions and matrix products: float32 | bfloat16
    c.model.batch_norm = "local"  # statistics of each device's share: local; of the whole batch: synchronised
    c.model.mean = (0.0,)  # the model normalises pixels itself: (x - mean) / std, one value or one per channel
    c.model.std = (1.0,)  # likewise
    c.model.depth = 28  # wide_resnet: 6n + 4 layers
    c.model.stem = "small"  # resnet18, 34, 50. small: 3x3; imagenet: 7x7 and pooling, a quarter of the resolution
    c.model.width = 0  # wide_resnet: widening factor; cnn: channels of the first stage; 0: the model's own default
    c.model.hidden = (256, 256)  # mlp: units of each hidden layer
    c.model.final_batch_norm = True  # preact_resnet18: batch norm before the pooling, as Rice et al. 2020
    c.model.shortcut = "activation"  # preact_resnet18: what 1x1 shortcuts read: activation (Rice et al. 2020) | input
    c.model.head = "linear"  # linear; cosine: logits are head_scale times the cosine of features and class weights
    c.model.head_scale = 10.0  # cosine: 10 in RoBal, 30 in LDAM

    c.threat = ml_collections.ConfigDict()  # what the model is trained and judged against
    c.threat.norm = "linf"  # linf | l2 | l1
    c.threat.eps_255 = 8.0  # radius in 1/255
    c.threat.eps = config_dict.placeholder(float)  # radius in pixel units of [0, 1]; replaces eps_255 where given

    c.attack = ml_collections.ConfigDict()  # PGD in training
    c.attack.steps = 10  # gradients for each batch; 1 for fgsm_rs, n_fgsm and free
    # With neither of the two the step is a quarter of the radius (fgsm_rs: 1.25 radii, free and n_fgsm: 1 radius).
    c.attack.step_size_255 = config_dict.placeholder(float)  # in 1/255
    c.attack.step_size = config_dict.placeholder(float)  # in pixel units of [0, 1]; replaces step_size_255 where given
    c.attack.radius = 1.0  # radius in training, in units of the threat's; evaluations use the threat's radius
    c.attack.restarts = 1  # the worst point of so many starts is trained on
    c.attack.random_start = True  # from a random point of the ball; False: from the image itself
    c.attack.radius_warmup = 0.0  # fraction of the training in which the radius, and the step, rises from 0
    c.attack.batch_norm = "train"  # batch norm during the attack: statistics of the batch (train), running ones (eval)

    c.objective = ml_collections.ConfigDict()
    c.objective.name = "pgd_at"  # standard | pgd_at | trades | mart | fgsm_rs | n_fgsm | free | bat | variance_penalty
    c.objective.label_smoothing = 0.0  # share of the target that is spread over all classes, in [0, 1)
    c.objective.beta = 6.0  # trades, mart, bat: weight of the divergence
    c.objective.climb = "divergence"  # trades: what its attack climbs: divergence | cross_entropy
    c.objective.noise = 2.0  # n_fgsm: how far away it starts, in radii
    c.objective.replays = 8  # free: updates on each batch
    c.objective.variance = 0.1  # variance_penalty: weight of the variance of the classes' losses
    c.objective.awp_gamma = 0.0  # adversarial weight perturbation, a share of each kernel's norm (0.01, trades 0.005)
    c.objective.awp_begin = 0.0  # fraction of the training at which it begins

    c.remedy = ml_collections.ConfigDict()
    c.remedy.name = "none"  # see remedies/__init__.py; several joined by +, for example ldam+reweight
    c.remedy.observe = "training"  # where it sees how classes do: training batches, or the validation split
    c.remedy.begin = 0.0  # fraction of the training until which all is neutral
    c.remedy.counts = "true"  # what stands for the examples of a class: true | robust_accuracy | predicted | margin
    c.remedy.counts_decay = 0.5  # of the last three: the weight of the epochs before in their average
    c.remedy.reweight = ml_collections.ConfigDict()
    c.remedy.reweight.weighting = "effective_number"  # inverse | effective_number
    c.remedy.reweight.beta = 0.9999  # of effective_number
    c.remedy.reweight.begin = 0.0  # fraction of the training at which the weights begin; deferred: 0.8
    c.remedy.resample = ml_collections.ConfigDict()
    c.remedy.resample.sampling = "balanced"  # balanced | square_root | progressive
    c.remedy.resample.begin = 0.0  # fraction of the training at which it begins; deferred: 0.8
    c.remedy.focal = ml_collections.ConfigDict()
    c.remedy.focal.gamma = 2.0  # exponent of the factor (1 - p_true)^gamma on the loss
    c.remedy.ldam = ml_collections.ConfigDict()
    c.remedy.ldam.largest_margin = 0.5  # of the rarest class, in units of the logits, or of the cosine of a cosine head
    c.remedy.logit_adjustment = ml_collections.ConfigDict()
    c.remedy.logit_adjustment.tau = 1.0  # factor on the log of the prior; 1 is balanced_softmax
    c.remedy.cdt = ml_collections.ConfigDict()
    c.remedy.cdt.tau = 0.3  # exponent of n_c / n_max, the factor on the logits
    c.remedy.vs = ml_collections.ConfigDict()
    c.remedy.vs.gamma = 0.15  # exponent of the factor on the logits
    c.remedy.vs.tau = 1.0  # factor on the log of the prior
    c.remedy.robust_lt = ml_collections.ConfigDict()
    c.remedy.robust_lt.strength = 0.3  # the share of the radius that goes by rarity; published with radius_warmup 0.8
    c.remedy.robal = ml_collections.ConfigDict()  # for model.head = cosine
    c.remedy.robal.margin = 0.1  # in units of the cosine
    c.remedy.robal.margin_tau = 0.0  # of the margin by rarity, in units of the logits; RoBal-R: 0.3
    c.remedy.robal.prior_tau = 1.2  # factor on the log of the prior; RoBal-R: 1.5
    c.remedy.frl = ml_collections.ConfigDict()
    c.remedy.frl.variant = "both"  # reweight | remargin | both
    c.remedy.frl.natural_tolerance = 0.07  # how much a class's natural error may exceed the average; reweight: 0.1
    c.remedy.frl.boundary_tolerance = 0.07  # the same of its boundary error
    c.remedy.frl.weight_rate = 0.05  # step of the weights' multipliers after each epoch
    c.remedy.frl.radius_rate = 0.2  # step of the log of the radius after each epoch
    c.remedy.frl.limit = 0.5  # of the sum of the multipliers, below 1 so that no weight is negative
    c.remedy.cfa = ml_collections.ConfigDict()
    c.remedy.cfa.radius_base = 0.5  # the radius is this plus the class's robust accuracy; published 0.3 for trades
    c.remedy.cfa.beta_base = 0.5  # the same of the trade-off
    c.remedy.cfa.average = False  # average the weights once an epoch, if no class of the validation split is too weak
    c.remedy.cfa.average_begin = 0.0  # fraction of the training from which on
    c.remedy.cfa.average_threshold = 0.2  # robust accuracy of the weakest class
    c.remedy.cfa.average_decay = 0.85  # weight of the average so far
    c.remedy.wat = ml_collections.ConfigDict()
    c.remedy.wat.eta = 0.1  # rate of the exponential weights (Hedge)
    c.remedy.dafa = ml_collections.ConfigDict()
    c.remedy.dafa.strength = 1.0  # published 1.5 for CIFAR-100
    c.remedy.dafa.begin = 70 / 110  # fraction of the training at which weights and radii are set, once
    c.remedy.faal = ml_collections.ConfigDict()
    c.remedy.faal.divergence = 0.5  # largest KL divergence of the class weights from equal ones
    c.remedy.cfol = ml_collections.ConfigDict()
    c.remedy.cfol.gamma = 0.5  # share of the draws that is by class alone
    c.remedy.cfol.eta = 5e-6  # published for 50,000 images an epoch; more for fewer
    c.remedy.spectral = ml_collections.ConfigDict()
    c.remedy.spectral.weight = 0.3  # share of the loss that is weighted by confusions, in [0, 1]
    c.remedy.fair_tat = ml_collections.ConfigDict()
    c.remedy.fair_tat.radius_base = 0.5  # the radius is this plus the class's robust accuracy, as in cfa
    c.remedy.fixed = ml_collections.ConfigDict()  # knobs set by hand, for interventions
    c.remedy.fixed.radius = ()  # factors on the radius of some classes, as "3:1.5" for label 3
    c.remedy.fixed.weight = ()  # weights of some classes on the losses

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "sgd"  # sgd | adamw
    c.optimizer.learning_rate = 0.1  # peak
    c.optimizer.momentum = 0.9  # sgd
    c.optimizer.nesterov = False  # sgd
    c.optimizer.weight_decay = 5e-4  # of every parameter, as in PyTorch: part of the gradient (sgd), decoupled (adamw)
    c.optimizer.schedule = "piecewise"  # constant | piecewise | cosine | one_cycle
    c.optimizer.milestones = (0.5, 0.75)  # piecewise: fractions of the training at which the rate is multiplied
    c.optimizer.decay_factor = 0.1  # piecewise: by this
    c.optimizer.warmup = 0.0  # fraction of the training in which the rate rises to its peak, linearly (any schedule)
    c.optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping

    c.train = ml_collections.ConfigDict()
    c.train.epochs = 30
    c.train.batch_size = 128  # over all devices; the incomplete last batch of an epoch is dropped
    c.train.start_from = ""  # workdir of a run whose best weights, else its last, are the initial ones
    c.train.seed = 0  # initial weights, data order, augmentation, random starts
    c.train.average_decay = 0.999  # exponential average of the weights and batch statistics; 0: none
    c.train.log_every_steps = 10  # loss and learning rate to TensorBoard
    c.train.overfitting_check = True  # with attack.steps = 1: PGD on 256 training images after each epoch
    c.train.steps_per_dispatch = 0  # resident sets: updates without the host; 0: 1 on a CPU, else 10

    c.eval = ml_collections.ConfigDict()
    c.eval.attacks = ("clean", "fgsm", "pgd20", "cw20")  # attacks and suites of attacks, see attacks/suites.py
    c.eval.checkpoints = "all"  # all; best: by the validation score so far, with those weights alone; last
    c.eval.splits = ("validation", "test")
    c.eval.every_epochs = 1  # 0: not while training (run --mode evaluate --follow beside it)
    c.eval.step_size_255 = config_dict.placeholder(float)  # of pgdK and cwK; neither given: a quarter of the radius
    c.eval.step_size = config_dict.placeholder(float)  # in pixel units of [0, 1]; replaces step_size_255 where given
    c.eval.batch_size = 512  # over all devices
    c.eval.examples = 0  # score a stratified subset of this many examples of each split; 0: every example
    c.eval.seed = 0  # random starts; each example has its own, whatever the batch

    c.audit = ml_collections.ConfigDict()  # of one checkpoint, by --mode audit
    c.audit.attack = "apgd_ce+apgd_t20"  # of the security curve: an attack or a suite, see attacks/suites.py
    # Of the security curve, in units of the threat's radius, which is added where it is missing.
    c.audit.radii = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0)
    c.audit.radii_255 = ()  # in 1/255; replaces `radii` where given
    # Of the class-to-class matrix. It is run towards each target, on a model of two classes: that one, and any other.
    c.audit.matrix_attack = "apgd_dlr"
    c.audit.targets = 0  # how many of an example's most likely wrong classes; 0: all, or of more than 20 classes 9
    c.audit.masking = True  # look for signs of gradient masking: what to do for it is in attacks/masking.py
    c.audit.examples = 0  # audit a stratified subset of this many; 0: every example

    c.posthoc = ml_collections.ConfigDict()  # of a head changed after training, see posthoc/
    c.posthoc.remedy = "none"  # which one made this run; as a training's it can be none alone
    c.posthoc.tau = config_dict.placeholder(float)  # tau_norm: chosen on validation if not given; logit_adjustment: 1
    c.posthoc.keep_bias = False  # tau_norm
    c.posthoc.prior = "counts"  # logit_adjustment: training counts | robust_accuracy, predicted (both on validation)
    c.posthoc.features = "raw"  # ncm: raw | l2n (of length 1, by angle)
    c.posthoc.attack = "fast"  # on validation: an attack or a suite; one with a margin loss, which no scale deceives
    c.posthoc.bias_size = 1.0  # bias_balance: first step, in mean clean margins for a difference of 1 in accuracy
    c.posthoc.bias_steps = 20  # bias_balance: steps, of sizes that fall to 0
    c.posthoc.epochs = 10  # lws, crt: of as many images as the training set has, all classes alike
    c.posthoc.learning_rate = 0.1  # lws, crt: at first; it falls to 0 by a cosine
    c.posthoc.momentum = 0.9  # lws, crt
    c.posthoc.weight_decay = 5e-4  # crt

    c.checkpoint = ml_collections.ConfigDict()
    c.checkpoint.every_epochs = 1  # and one at the end
    c.checkpoint.keep = 0  # the newest this many, and the best; 0: all
    c.checkpoint.best = "sum"  # validation score that marks the best: average | worst | sum (of both), robust accuracy
    c.checkpoint.best_attack = ""  # under this attack of eval.attacks; empty: under the last one listed

    return c.lock()


def from_file(path) -> ml_collections.ConfigDict:
    """The config of a file under configs/, for another one to build on."""
    return files.imported(path).get_config()


def check_file(path, field: str) -> None:
    """Raises FieldError, which names the `field`, if there is no such config file."""
    if not pathlib.Path(path).is_file():
        raise FieldError(field, str(path), "is not a file", "give a config file, for example configs/digits.py")


def given(path, field: str) -> ml_collections.ConfigDict:
    """The config of a file that the user has named.

    Raises:
        FieldError: names the `field`; there is no such file, or its code fails.
    """
    check_file(path, field)
    try:
        return from_file(path)
    except Exception as error:  # whatever the code of a config file may raise
        raise FieldError(field, str(path), f"{type(error).__name__}: {error}", "correct the file") from error


def radius(config) -> float:
    """The threat radius in pixel units of [0, 1]."""
    threat = config.threat
    return threat.eps if threat.eps is not None else threat.eps_255 / 255


def attack_radius(config, section: str) -> float:
    """The radius that `attack` trains with, or `eval` judges by, in pixel units of [0, 1]."""
    return radius(config) * (config.attack.radius if section == "attack" else 1.0)


def step_size(config, section: str) -> float:
    """The attack step of `attack` or `eval` in pixel units: as given, else a quarter of the radius.

    In training with an objective of one step it is what that was published with.
    """
    fields = config[section]
    if fields.step_size is not None:
        return fields.step_size
    if fields.step_size_255 is not None:
        return fields.step_size_255 / 255
    radii = objectives.SINGLE_STEPS.get(config.objective.name, 0.25) if section == "attack" else 0.25
    return radii * attack_radius(config, section)


def audit_radii(config) -> tuple[float, ...]:
    """The radii of an audit's security curve in pixel units, rising; that of the threat is one of them."""
    threat, audit = radius(config), config.audit
    radii = [r / 255 for r in audit.radii_255] or [r * threat for r in audit.radii]
    # Without the neighbours that only rounding keeps apart from it.
    return tuple(sorted({r for r in radii if not math.isclose(r, threat, rel_tol=1e-6)} | {threat}))


def audit_targets(config, num_classes: int) -> int:
    """How many classes an audit pushes each example to."""
    return min(num_classes - 1, config.audit.targets or (num_classes if num_classes <= ALL_TARGETS_UP_TO else 9))


def relative_step(config) -> float:
    """The step of an evaluation's PGD as a share of the radius, which it goes with at other radii."""
    return step_size(config, "eval") / radius(config) if radius(config) > 0 else 0.25


def checkpoint_due(config, epoch: int) -> bool:
    """Whether a checkpoint is to be saved, and kept, after that many epochs."""
    return epoch % config.checkpoint.every_epochs == 0 or epoch == config.train.epochs


def best_attack(config) -> str:
    """Name of the attack under which the best checkpoint is chosen."""
    return config.checkpoint.best_attack or config.eval.attacks[-1]


AUDIT_FIELDS = tuple(f"audit.{name}" for name in default().audit)
POSTHOC_FIELDS = tuple(f"posthoc.{name}" for name in default().posthoc if name != "remedy")

# The command line reads overrides by a config file; where the run's own config is to be used, this file stands for it.
get_config = default


def to_dict(config) -> dict:
    """The config as plain JSON data: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def from_dict(values: dict) -> ml_collections.ConfigDict:
    """The inverse of `to_dict`: the default config with every stored value put in.

    Raises:
        FieldError: a stored field does not exist in this version.
    """
    config = default()
    for field, value in files.flatten(values).items():
        value = tuple(value) if isinstance(value, list) else value
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, TypeError, AttributeError) as error:
            raise FieldError(field, value, "is no field of this version", "use the version that wrote it") from error
    return config


def differences(one: dict, other: dict) -> dict:
    """The fields, by dotted name, in which two `to_dict` configs differ: name -> (value in one, value in other)."""
    one, other = files.flatten(one), files.flatten(other)
    return {name: (one.get(name), other.get(name)) for name in sorted(one | other) if one.get(name) != other.get(name)}
