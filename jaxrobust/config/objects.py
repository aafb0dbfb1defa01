"""From config sections to the data and the model that they describe."""

from jaxrobust import config as config_lib, console, data, models, objectives, remedies
from jaxrobust.attacks.threats import Threat
from jaxrobust.distributed import parallel
from jaxrobust.remedies.rule import first_epoch


def _data(config) -> dict:
    """The settings of a data set and of its description."""
    fields = config.data
    return {
        "data_dir": fields.data_dir,
        "validation_per_class": fields.validation_per_class,
        "seed": fields.seed,
        "gaussians": data.Gaussians(**fields.gaussians.to_dict()) if fields.name == "gaussians" else None,
        "streaming": fields.streaming,
        "image_size": fields.image_size,
        "imbalance_profile": fields.imbalance,
        "imbalance_ratio": fields.imbalance_ratio,
        "progress": console.progress,
    }


def dataset(config) -> data.Dataset:
    """Load the data."""
    fields = config.data
    return data.load(fields.name, drop=fields.drop, merge=fields.merge, shares=fields.shares, **_data(config))


def description(config, images=None, num_classes: int | None = None) -> data.Description:
    """The data set's shape, classes and size without its data; `images` and `num_classes` as in `data.describe`.

    Where classes are regrouped or thinned, what is left is known from the data alone.
    """
    if (config.data.drop or config.data.merge or config.data.shares) and images is None and num_classes is None:
        return data.described(dataset(config))
    return data.describe(config.data.name, images=images, num_classes=num_classes, **_data(config))


def model(config, num_classes: int, mesh, dtype: str | None = None):
    """The model, in `model.dtype` or the given one."""
    fields = config.model
    return models.create(
        fields.name,
        num_classes=num_classes,
        dtype=dtype or fields.dtype,
        batch_norm_axis=parallel.AXIS if fields.batch_norm == "synchronised" else None,
        mean=tuple(fields.mean),
        std=tuple(fields.std),
        head=fields.head,
        head_scale=fields.head_scale,
        canonical_gradients=parallel.on_cpu(mesh),
        **models.options_of(fields.name, fields),
    )


def threat(config) -> Threat:
    """What the attacker may do to an image."""
    return Threat(config.threat.norm, config_lib.radius(config))


def objective(config, name: str | None = None, *loss) -> objectives.Objective:
    """The loss of the training, and how it attacks; by the config's settings, of another `name` and `loss` if given."""
    settings = {setting: config.objective[setting] for setting in objectives.SETTINGS}
    return objectives.create(name or config.objective.name, *loss, **settings)


def remedy(config, training_objective: objectives.Objective | None = None) -> remedies.Remedy:
    """The controller of the class knobs, of the config's objective or the given one."""
    fields, training_objective = config.remedy, training_objective or objective(config)
    run = remedies.Run(
        num_epochs=config.train.epochs,
        first_epoch=first_epoch(fields.begin, config.train.epochs),
        knobs=training_objective.knobs,
        beta=training_objective.beta,
        head_scale=config.model.head_scale if config.model.head == "cosine" else 1.0,
    )
    settings = {name: fields[name].to_dict() for name in remedies.NAMES if name in fields}
    return remedies.create(fields.name, run, fields.counts, fields.counts_decay, settings)
