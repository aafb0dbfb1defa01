"""Remedies after training: another head for a checkpoint, in a run of its own that is scored like any other.

    jaxrobust posthoc --workdir RUN --remedy NAME [--out DIR] [--step N] [--weights raw|averaged]
        [--config.posthoc.FIELD=VALUE]

It makes DIR (default: RUN-NAME) a run with one checkpoint, in which the head alone differs from that of RUN (by default
the best, else the last); score it with `jaxrobust evaluate --workdir DIR`. Attacks see the new head. The test split is
never looked at.

    tau_norm          W_c / |W_c|^tau, without bias; tau of 0, 0.1 .. 2 as chosen on validation
    head_norm         W_c / |W_c|, bias kept
    lws               a factor for each class, learned on adversarial images, all classes alike
    crt               a new head, learned likewise
    ncm               the class whose mean of features is nearest: of training images without perturbation, as they are
                      or of length 1 (the variant that subtracts the mean of all first, cl2n, is left out)
    logit_adjustment  z - tau log pi; pi by training counts, or by robust accuracy or predicted share on validation
    bias_balance      biases that make the classes withstand alike on validation

"Chosen on validation" is by the sum of average and worst-class accuracy under `posthoc.attack`, which attacks the head
that is tried; of several alike the first. Factors on the logits deceive attacks on the cross-entropy alone.
`bias_balance` moves b_c by size * (mean accuracy - accuracy of c), with a size that falls to 0, and takes the best of
all heads on the way, the first included. Its config fields: `jaxrobust fields posthoc`.
"""

from jaxrobust.commands.front_end import require
from jaxrobust.errors import listed
from jaxrobust.posthoc import remedies as posthoc_remedies
from jaxrobust.posthoc.change import change_head


def add_arguments(parser) -> None:
    parser.add_argument("--workdir", metavar="RUN", help="folder of the run whose head is to be changed")
    parser.add_argument("--remedy", metavar="NAME", help=f"what to do: {' | '.join(posthoc_remedies.NAMES)}")
    parser.add_argument("--out", metavar="DIR", help="folder of the new run; default: RUN-NAME")
    parser.add_number("--step", int, 0, "checkpoint to take; default: the best, else the last")
    parser.add_argument("--weights", choices=("raw", "averaged"), help="default: those of the best, else averaged")
    parser.add_overrides()


def run(given) -> None:
    """Make the new run."""
    require(given, "workdir", "give the folder of the run whose head is to be changed")
    require(given, "remedy", listed(posthoc_remedies.NAMES))
    chosen = {"out": given.out, "step": given.step, "weights": given.weights}
    change_head(given.workdir, given.remedy, given.config.overrides, **chosen)
