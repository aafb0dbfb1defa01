"""The table of all config fields: name, default, meaning, and what is allowed.

`default()` is built from it, `validation` checks each value by it, and `jaxrobust fields` prints it. A default of None
stands for a number that need not be given. What depends on several fields is checked in `validation`.
"""

import ml_collections
from ml_collections import config_dict

from jaxrobust import models, objectives, remedies
from jaxrobust.attacks import threats
from jaxrobust.data import augment, imbalance, sources
from jaxrobust.remedies import difficulty, long_tail
from jaxrobust.settings import Allowed, Field, below, between, each, one_of, some_of, up_to, words

FRACTION, ANY_SEED = below(1), below(2**32)
COUNT, NUMBER = up_to(10**9), between(1, 10**9)  # of images
EPOCHS, BATCH = between(1, 10**6), between(1, 10**6)
FACTOR = up_to(100)  # on a term, or an exponent
SCALED_RADIUS = between(
    0, 2, "is in units of the threat's radius, from 0 to 2, which doubles the radius", "use a share such as 0.5"
)
MEANS = each(lambda m: 0 <= m <= 1, "one value in [0, 1], or one per channel")
SCALES = each(lambda s: 0.001 <= s <= 1000, "one value from 0.001 to 1,000, or one per channel")
RADII = each(lambda r: 0 < r <= 10**8, "positive numbers")
MILESTONES = each(lambda m: 0 < m < 1, "increasing fractions of the training, for example (0.5, 0.75)")
AN_ATTACK = Allowed("an attack or a suite of attacks/suites.py")
A_STEP = Allowed(
    "a sensible share of the radius", lambda x: 0 < x <= 10**8, "is not a step", "use a quarter of the radius"
)
OF_CLASSES = words("texts LABEL:FACTOR")

SECTIONS = {
    "data": "the images: which, how many, and how they are augmented",
    "data.gaussians": "for data.name = gaussians: class c is N(means[c] * 1, stddevs[c]^2 I), data/sources/gaussians",
    "model": "the architecture",
    "threat": "what the model is trained against and evaluated under",
    "attack": "PGD in training",
    "objective": "the loss of the training",
    "remedy": "what is done for weak classes during training, see remedies/",
    "optimizer": "gradient descent and its learning rate",
    "train": "length of the training, and how it runs",
    "eval": "which checkpoints are scored, under which attacks",
    "audit": "the audit of one checkpoint, by `jaxrobust audit`",
    "posthoc": "a head changed after training by `jaxrobust posthoc`, see posthoc/",
    "checkpoint": "which checkpoints are kept, and which is the best",
}

# fmt: off
_ROWS = (
    ("data.name", "digits", "the data set", Allowed(" | ".join(sources.forms()))),
    ("data.data_dir", "", "tfds only: folder of prepared data sets; empty: $TFDS_DATA_DIR, else the TFDS default"),
    ("data.validation_per_class", 0, "images per class held out of the training set; 0: no validation split", COUNT),
    ("data.seed", 0,
     "draws the validation split, the long-tailed subset and the Gaussian mixtures, not the training", ANY_SEED),
    ("data.imbalance", "none",
     "long-tailed subset of the training set, label 0 largest", one_of(*imbalance.PROFILES)),
    ("data.imbalance_ratio", 0.1, "its smallest class over its largest; see data/imbalance.py",
     Allowed("0 < x <= 1", lambda x: 0 < x <= 1, "is not a ratio of the smallest class to the largest",
             "use a number above 0, up to 1, for example 0.02")),
    ("data.drop", (), "classes to leave out, by name or label; in all splits", words("names or labels, as texts")),
    ("data.merge", (), 'groups of classes to make one, as "cat+dog"; in all splits', words("groups of classes")),
    ("data.shares", (), 'of the training images of some classes, as "cat:0.5"; "*:0.5": of all others',
     words("texts NAME:SHARE")),
    ("data.streaming", False, "tfds, folder: leave images in files until needed, for sets beyond the memory"),
    ("data.image_size", 0,
     "side to resize to: any if streamed, centre crop included; else a divisor; 0: as it is", up_to(4096)),
    ("data.augment", (), "applied in the order given; resized_crop for streamed images only, first",
     some_of(*augment.OPERATIONS, or_none=True)),
    ("data.crop_scale", (0.08, 1.0), "resized_crop: smallest and largest share of the image's area",
     each(lambda share: 0 < share <= 1, "two rising numbers in (0, 1]")),
    ("data.pad", 4, "pixels on each side before the random crop", up_to(4096)),
    ("data.pad_mode", "zero", "what the padding holds", one_of(*augment.PAD_MODES)),
    ("data.gaussians.dimension", 100, "pixels of an image", between(1, 10**6)),
    ("data.gaussians.means", (-0.1, 0.1), "of every pixel, one for each class",
     each(lambda m: abs(m) < 10**6, "a number for each class")),
    ("data.gaussians.stddevs", (1.0, 2.0), "of every pixel, one for each class",
     each(lambda s: 0 < s < 10**6, "a positive number for each class")),
    ("data.gaussians.priors", (0.5, 0.5), "share of each class in all splits; they add up to 1",
     each(lambda p: 0 < p < 1, "a share in (0, 1) for each class")),
    ("data.gaussians.train_examples", 20_000, "size of the training set, validation included", between(1, 10**8)),
    ("data.gaussians.test_examples", 10_000, "size of the test set", between(1, 10**8)),
    ("data.gaussians.pixels_per_unit", 0.04,
     "pixel = 0.5 + pixels_per_unit * x; a radius e is e * pixels_per_unit",
     Allowed("0 < x <= 1", lambda x: 0 < x <= 1, "must be above 0 and at most 1")),

    ("model.name", "cnn", "the architecture", one_of(*models.NAMES)),
    ("model.dtype", "float32", "of convolutions and matrix products", one_of(*models.DTYPES)),
    ("model.batch_norm", "local", "statistics of each device's share, or of the whole batch",
     one_of("local", "synchronised")),
    ("model.mean", (0.0,), "the model normalises pixels itself: (x - mean) / std", MEANS),
    ("model.std", (1.0,), "likewise", SCALES),
    *models.OPTIONS.values(),
    ("model.head", "linear", "cosine: logits are head_scale times the cosine of features and class weights",
     one_of(*models.HEADS)),
    ("model.head_scale", 10.0, "cosine: 10 in RoBal, 30 in LDAM",
     Allowed("0 < x <= 100,000", lambda x: 0 < x <= 10**5, "is not a scale", "write a positive number, such as 10")),

    ("threat.norm", "linf", "norm of the perturbations", one_of(*threats.NAMES)),
    ("threat.eps_255", 8.0, "radius in 1/255", up_to(10**8)),
    ("threat.eps", None, "radius in pixel units of [0, 1]; replaces eps_255 where given", up_to(10**6)),

    ("attack.steps", 10, "gradients for each batch; 1 for fgsm_rs, n_fgsm and free", between(1, 10_000)),
    ("attack.step_size_255", None,
     "in 1/255; by default a quarter of the radius (fgsm_rs: 1.25 radii, free and n_fgsm: 1 radius)",
     A_STEP),
    ("attack.step_size", None, "in pixel units of [0, 1]; replaces step_size_255 where given",
     A_STEP),
    ("attack.radius", 1.0,
     "radius in training, in units of the threat's; evaluations use the threat's radius", up_to(10)),
    ("attack.restarts", 1, "the worst point of so many starts is trained on", between(1, 1000)),
    ("attack.random_start", True, "from a random point of the ball; False: from the image itself"),
    ("attack.radius_warmup", 0.0, "fraction of the training in which the radius, and the step, rises from 0", FRACTION),
    ("attack.batch_norm", "as_published",
     "batch norm during the attack: statistics of the batch (train), running ones (eval), or by objective: eval for "
     + ", ".join(objectives.ATTACK_IN_EVALUATION), one_of("as_published", "train", "eval")),

    ("objective.name", "pgd_at", "what is minimised; configs/objectives has one of each", one_of(*objectives.NAMES)),
    *objectives.SETTINGS.values(),
    ("objective.awp_gamma", 0.0,
     "adversarial weight perturbation, a share of each kernel's norm (0.01, trades 0.005)", up_to(1)),
    ("objective.awp_begin", 0.0, "fraction of the training at which it begins", FRACTION),

    ("remedy.name", "none", "the remedy; several joined by +, for example ldam+reweight",
     Allowed(" | ".join(remedies.NAMES))),
    ("remedy.observe", "training", "where it sees how classes do: training batches, or the validation split",
     one_of("training", "validation")),
    ("remedy.begin", 0.0, "fraction of the training until which all is neutral", FRACTION),
    ("remedy.counts", "true", "what stands for the examples of a class", one_of(*remedies.COUNTS)),
    ("remedy.counts_decay", 0.5, "counts other than true: the weight of the epochs before in their average", FRACTION),
    ("remedy.reweight.weighting", "effective_number", "weight of a class by its count", one_of(*long_tail.WEIGHTINGS)),
    ("remedy.reweight.beta", 0.9999, "of effective_number", FRACTION),
    ("remedy.reweight.begin", 0.0, "fraction of the training at which the weights begin; deferred: 0.8", FRACTION),
    ("remedy.resample.sampling", "balanced", "share of a class in the draws", one_of(*long_tail.SAMPLINGS)),
    ("remedy.resample.begin", 0.0, "fraction of the training at which it begins; deferred: 0.8", FRACTION),
    ("remedy.focal.gamma", 2.0, "exponent of the factor (1 - p_true)^gamma on the loss", FACTOR),
    ("remedy.ldam.largest_margin", 0.5,
     "of the rarest class, in units of the logits, or of the cosine of a cosine head", FACTOR),
    ("remedy.logit_adjustment.tau", 1.0, "factor on the log of the prior; 1 is balanced_softmax", FACTOR),
    ("remedy.cdt.tau", 0.3, "exponent of n_c / n_max, the factor on the logits", FACTOR),
    ("remedy.vs.gamma", 0.15, "exponent of the factor on the logits", FACTOR),
    ("remedy.vs.tau", 1.0, "factor on the log of the prior", FACTOR),
    ("remedy.robust_lt.strength", 0.3,
     "the share of the radius that goes by rarity; published with attack.radius_warmup 0.8",
     up_to(1)),
    ("remedy.robal.margin", 0.1, "for model.head = cosine: in units of the cosine", FACTOR),
    ("remedy.robal.margin_tau", 0.0, "of the margin by rarity, in units of the logits; RoBal-R: 0.3", FACTOR),
    ("remedy.robal.prior_tau", 1.2, "factor on the log of the prior; RoBal-R: 1.5", FACTOR),
    ("remedy.frl.variant", "both", "what it changes", one_of(*difficulty.FRL_VARIANTS)),
    ("remedy.frl.natural_tolerance", 0.07,
     "how much a class's natural error may exceed the average; reweight: 0.1", up_to(1)),
    ("remedy.frl.boundary_tolerance", 0.07, "the same of its boundary error", up_to(1)),
    ("remedy.frl.weight_rate", 0.05, "step of the weights' multipliers after each epoch", FACTOR),
    ("remedy.frl.radius_rate", 0.2, "step of the log of the radius after each epoch", FACTOR),
    ("remedy.frl.limit", 0.5, "of the sum of the multipliers, below 1 so that no weight is negative", FRACTION),
    ("remedy.cfa.radius_base", 0.5,
     "the radius is this plus the class's robust accuracy; published 0.3 for trades", SCALED_RADIUS),
    ("remedy.cfa.beta_base", 0.5, "the same of the trade-off", FACTOR),
    ("remedy.cfa.average", False,
     "average the weights once an epoch, if no class of the validation split is too weak"),
    ("remedy.cfa.average_begin", 0.0, "fraction of the training from which on", FRACTION),
    ("remedy.cfa.average_threshold", 0.2, "robust accuracy of the weakest class", FRACTION),
    ("remedy.cfa.average_decay", 0.85, "weight of the average so far", FRACTION),
    ("remedy.wat.eta", 0.1, "rate of the exponential weights (Hedge)", up_to(1000)),
    ("remedy.dafa.strength", 1.0, "published 1.5 for CIFAR-100", FACTOR),
    ("remedy.dafa.begin", 70 / 110, "fraction of the training at which weights and radii are set, once", FRACTION),
    ("remedy.faal.divergence", 0.5, "largest KL divergence of the class weights from equal ones", FACTOR),
    ("remedy.cfol.gamma", 0.5, "share of the draws that is by class alone", FRACTION),
    ("remedy.cfol.eta", 5e-6, "published for 50,000 images an epoch; more for fewer", up_to(1000)),
    ("remedy.spectral.weight", 0.3, "share of the loss that is weighted by confusions", FRACTION),
    ("remedy.fair_tat.radius_base", 0.5,
     "the radius is this plus the class's robust accuracy, as in cfa", SCALED_RADIUS),
    ("remedy.fixed.radius", (),
     'set by hand, for interventions: factors, up to 10, on the radius of some classes, as "3:1.5"', OF_CLASSES),
    ("remedy.fixed.weight", (), "likewise: weights of some classes on the losses, up to 1,000", OF_CLASSES),

    ("optimizer.name", "sgd", "the optimizer", one_of("sgd", "adamw")),
    ("optimizer.learning_rate", 0.1, "peak", up_to(100)),
    ("optimizer.momentum", 0.9, "sgd", FRACTION),
    ("optimizer.nesterov", False, "sgd"),
    ("optimizer.weight_decay", 5e-4,
     "of every parameter, as in PyTorch: part of the gradient (sgd), decoupled (adamw)", up_to(10)),
    ("optimizer.schedule", "piecewise", "of the learning rate", one_of("constant", "piecewise", "cosine", "one_cycle")),
    ("optimizer.milestones", (0.5, 0.75),
     "piecewise: fractions of the training at which the rate is multiplied", MILESTONES),
    ("optimizer.decay_factor", 0.1, "piecewise: by this", up_to(1)),
    ("optimizer.warmup", 0.0,
     "fraction of the training in which the rate rises to its peak, linearly (any schedule)", FRACTION),
    ("optimizer.clip_norm", 0.0, "largest global norm of the gradient; 0: no clipping", up_to(10**6)),

    ("train.epochs", 30, "passes over the training set", EPOCHS),
    ("train.batch_size", 128, "over all devices; the incomplete last batch of an epoch is dropped", BATCH),
    ("train.start_from", "", "workdir of a run whose best weights, else its last, are the initial ones"),
    ("train.seed", 0, "initial weights, data order, augmentation, random starts", ANY_SEED),
    ("train.average_decay", 0.999, "exponential average of the weights and batch statistics; 0: none", FRACTION),
    ("train.log_every_steps", 10, "loss and learning rate to TensorBoard", between(1, 10**9)),
    ("train.overfitting_check", True, "with attack.steps = 1: PGD on 256 training images after each epoch"),
    ("train.steps_per_dispatch", 0,
     "resident sets: updates without the host; 0: 1 on a CPU, else 10", up_to(10_000)),

    ("eval.attacks", ("clean", "fgsm", "pgd20", "cw20"), "what checkpoints are scored under",
     Allowed("clean, attacks and suites of attacks/suites.py",
             lambda names: len(names) > 0 and all(isinstance(name, str) for name in names),
             "is empty, or holds what is no name", "name at least one, for example ('clean', 'pgd20')")),
    ("eval.checkpoints", "all", "best: by the validation score so far, with those weights alone",
     one_of("all", "best", "last")),
    ("eval.splits", ("validation", "test"), "what checkpoints are scored on", some_of("validation", "test")),
    ("eval.every_epochs", 1, "0: not while training (run `jaxrobust evaluate --follow` beside it)", up_to(10**6)),
    ("eval.step_size_255", None, "of pgdK and cwK, in 1/255; by default a quarter of the radius",
     A_STEP),
    ("eval.step_size", None, "in pixel units of [0, 1]; replaces step_size_255 where given",
     A_STEP),
    ("eval.batch_size", 512, "over all devices", BATCH),
    ("eval.examples", 0,
     "score a stratified subset of this many examples of each split; 0: every example", COUNT),
    ("eval.seed", 0, "random starts; each example has its own, whatever the batch", ANY_SEED),

    ("audit.attack", "apgd_ce+apgd_t20", "of the security curve", AN_ATTACK),
    ("audit.radii", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0),
     "of the security curve, in units of the threat's radius, which is added where it is missing", RADII),
    ("audit.radii_255", (), "in 1/255; replaces `radii` where given",
     RADII._replace(holds=lambda radii: not len(radii) or RADII.holds(radii))),
    ("audit.matrix_attack", "apgd_dlr",
     "of the class-to-class matrix: run towards each target, on a model of two classes: that one, and any other",
     AN_ATTACK),
    ("audit.targets", 0,
     "how many of an example's most likely wrong classes; 0: all, or of more than 20 classes 9", up_to(10**6)),
    ("audit.masking", True, "look for signs of gradient masking: what to do for it is in attacks/masking.py"),
    ("audit.examples", 0, "audit a stratified subset of this many; 0: every example", COUNT),

    ("posthoc.remedy", "none", "which one made this run; as a training's it can be none alone"),
    ("posthoc.tau", None, "tau_norm: chosen on validation if not given; logit_adjustment: 1", FACTOR),
    ("posthoc.keep_bias", False, "tau_norm"),
    ("posthoc.prior", "counts",
     "logit_adjustment: of the training set, or measured on validation (robust_accuracy, predicted)",
     one_of("counts", "robust_accuracy", "predicted")),
    ("posthoc.features", "raw", "ncm: as they are, or of length 1 (by angle)", one_of("raw", "l2n")),
    ("posthoc.attack", "fast", "on validation; one with a margin loss, which no scale deceives", AN_ATTACK),
    ("posthoc.bias_size", 1.0,
     "bias_balance: first step, in mean clean margins for a difference of 1 in accuracy", up_to(1000)),
    ("posthoc.bias_steps", 20, "bias_balance: steps, of sizes that fall to 0", between(1, 10_000)),
    ("posthoc.epochs", 10, "lws, crt: of as many images as the training set has, all classes alike", EPOCHS),
    ("posthoc.learning_rate", 0.1, "lws, crt: at first; it falls to 0 by a cosine", up_to(100)),
    ("posthoc.momentum", 0.9, "lws, crt", FRACTION),
    ("posthoc.weight_decay", 5e-4, "crt", up_to(10)),

    ("checkpoint.every_epochs", 1, "and one at the end", EPOCHS),
    ("checkpoint.keep", 0, "the newest this many, and the best; 0: all", up_to(10**6)),
    ("checkpoint.best", "sum", "validation score that marks the best, of robust accuracies; sum: of both",
     one_of("average", "worst", "sum")),
    ("checkpoint.best_attack", "", "under this attack of eval.attacks; empty: under the last one listed"),
)
# fmt: on

FIELDS = {name: Field(name, *rest) for name, *rest in _ROWS}


def default() -> ml_collections.ConfigDict:
    """The documented default: every field that exists. Returned locked, so a misspelt field is an error."""
    config = ml_collections.ConfigDict()
    for field in FIELDS.values():
        *parents, name = field.name.split(".")
        parent = config
        for part in parents:
            if part not in parent:
                parent[part] = ml_collections.ConfigDict()
            parent = parent[part]
        parent[name] = config_dict.placeholder(float) if field.default is None else field.default
    return config.lock()


def section(name: str) -> tuple[str, ...]:
    """The names of the fields of a section."""
    return tuple(field for field in FIELDS if field.startswith(f"{name}."))
