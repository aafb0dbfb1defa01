"""From config sections to the compiled steps of an evaluation."""

from jaxrobust import config as config_lib
from jaxrobust.attacks import threats
from jaxrobust.config import objects
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import steps


def judge_step(config, num_classes: int, mesh):
    """The compiled verdict on images: (weights, images, adversarial, radius) -> see steps.make_judge_step."""
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return parallel.spmd(
        judge_function(config, num_classes, mesh), mesh, in_specs=(whole, share, share, share), out_specs=_VERDICT
    )


def ranking_step(config, num_classes: int, mesh, count: int):
    """The compiled ranking of classes: (weights, images) -> see steps.make_ranking_step."""
    step = steps.make_ranking_step(objects.model(config, num_classes, mesh, dtype="float32"), count)
    in_specs = (parallel.REPLICATED, parallel.SHARDED)
    out_specs = {"ranking": parallel.SHARDED, "finite": parallel.REPLICATED}
    return parallel.spmd(step, mesh, in_specs=in_specs, out_specs=out_specs)


def features_step(config, num_classes: int, mesh):
    """The compiled look at what the head sees: (weights, images) -> (features [B, D], logits [B, C]), float32."""
    step = steps.make_features_step(objects.model(config, num_classes, mesh, dtype="float32"))
    return parallel.spmd(step, mesh, in_specs=(parallel.REPLICATED, parallel.SHARDED), out_specs=parallel.SHARDED)


def probe_step(config, num_classes: int, mesh):
    """The compiled look for signs of gradient masking: (weights, images, labels) -> see steps.make_probe_step."""
    whole, share = parallel.REPLICATED, parallel.SHARDED
    step = steps.make_probe_step(objects.model(config, num_classes, mesh))
    return parallel.spmd(step, mesh, in_specs=(whole, share, share), out_specs=share)


def landscape_step(config, num_classes: int, mesh):
    """The compiled look around images: (weights, images, labels, ids) -> see steps.make_landscape_step."""
    judge = objects.model(config, num_classes, mesh, dtype="float32")
    step = steps.make_landscape_step(judge, config.threat.norm, config_lib.radius(config))
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return parallel.spmd(step, mesh, in_specs=(whole, share, share, share), out_specs=share)


def attack(config, num_classes: int, spec, towards: bool = False):
    """An attack of an evaluation, as its name in `eval.attacks` says; towards a class it is one on two classes."""
    return spec.build(config.threat.norm, 2 if towards else num_classes, config_lib.relative_step(config))


def attack_steps(config, num_classes: int, mesh, spec, length: int, towards: bool = False):
    """The compiled parts of an attack, `begin` and `go_on`; see steps.make_attack_steps. The state is donated."""
    begin, go_on = steps.make_attack_steps(
        objects.model(config, num_classes, mesh),
        judge_function(config, num_classes, mesh),
        attack(config, num_classes, spec, towards),
        length,
        towards=towards,
    )
    whole, share = parallel.REPLICATED, parallel.SHARDED
    examples = (whole, share, share, share, share, whole, whole)
    out_specs = (share, _VERDICT | {"idle": share})
    return (
        parallel.spmd(begin, mesh, in_specs=examples, out_specs=out_specs),
        parallel.spmd(go_on, mesh, in_specs=(*examples, whole, share), out_specs=out_specs, donate=(8,)),
    )


_VERDICT = {"prediction": parallel.SHARDED, "excess": parallel.REPLICATED, "finite": parallel.REPLICATED}


def judge_function(config, num_classes: int, mesh):
    judge = objects.model(config, num_classes, mesh, dtype="float32")
    return steps.make_judge_step(judge, threats.NORMS[config.threat.norm])
