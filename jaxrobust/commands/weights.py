"""Import weights from PyTorch as a run that can be evaluated, and export weights of a run for PyTorch.

    jaxrobust weights --import FILE --config configs/cifar10.py [--workdir DIR] [--config.FIELD=VALUE]
    jaxrobust weights --export FILE --workdir DIR [--step N] [--weights raw|averaged] [--names SCHEME]

The import makes DIR (default: runs/<name of FILE>) a run with a single checkpoint, its last one; evaluate it with
`jaxrobust evaluate --workdir DIR`. FILE is a .safetensors, .npz, .pt or .pth file with a state
dict; no code in it is executed. The model and data settings of the config must match the weights; its training settings
are not used.

The export writes a .safetensors or .npz file of the best checkpoint, or of the last one if no best was selected.
"""

from jaxrobust import files
from jaxrobust.commands.front_end import naming, require
from jaxrobust.errors import FieldError, UserError
from jaxrobust.training import torch_files


def add_arguments(parser) -> None:
    text = "file to which the weights of a run are written: .safetensors or .npz"
    parser.add_argument("--import", dest="source", metavar="FILE", help="file of weights to import as a run")
    parser.add_argument("--export", metavar="FILE", help=text)
    text = "folder of the run; default of an import: runs/<name of the file>"
    parser.add_argument("--workdir", metavar="DIR", help=text)
    parser.add_number("--step", int, 0, "checkpoint to export; default: the best, else the last")
    text = "weights to export; default: those of the best checkpoint, else averaged"
    parser.add_argument("--weights", choices=("raw", "averaged"), help=text)
    text = "naming scheme of the exported arrays, if a model has several: robustbench | torchvision"
    parser.add_argument("--names", metavar="SCHEME", help=text)
    parser.add_config("config of the model and the data of an import")


def run(given) -> None:
    """Import or export, depending on the options."""
    if (given.source is None) == (given.export is None):
        raise UserError("give either --import FILE, with --config, or --export FILE, with --workdir")
    if given.source is not None:
        config = given.config.required()
        check_shortcut(config.model, given.config.overrides)
        with naming(path="--import"):
            stem = files.path(given.source, "path").stem
            workdir = f"runs/{stem}" if given.workdir is None else given.workdir
            torch_files.import_run(given.source, config, workdir)
        return
    require(given, "workdir", "give the folder of the run to export from")
    chosen = {"step": given.step, "weights": given.weights, "names": given.names}
    with naming(path="--export"):
        torch_files.export_run(given.export, given.workdir, given.config.overrides, **chosen)


def check_shortcut(model, overrides: dict) -> None:
    """Check that the user chose the shortcut: two published PreAct ResNets have the same names and shapes."""
    if model.name == "preact_resnet18" and "model.shortcut" not in overrides:
        raise FieldError(
            "model.shortcut",
            model.shortcut,
            "the file does not show the input of the 1x1 shortcuts",
            "give --config.model.shortcut=activation (Rice et al. 2020; RobustBench's PreActBlockV2) or "
            "--config.model.shortcut=input (Wong et al. 2020; RobustBench's PreActBlock)",
        )
