"""The command line: `python -m paper_repro demo`."""

import argparse
import sys
from pathlib import Path

from paper_repro import demo
from paper_repro.data import PHOTOGRAPHS, DataError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one line that says what was wrong."""
    options = _parser().parse_args(arguments)
    try:
        demo.run(options)
    except (DataError, demo.UsageError) as error:
        print(f"paper_repro: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npaper_repro: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m paper_repro", description="Real models and data for xattr."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "demo",
        help="explain an ImageNet network's decision on a photograph",
        epilog="In the table, gap is what the sum of a map misses of f(image) - f(baseline); for "
        "LRP, which has no baseline, of f(image).",
    )
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
        help=f"rows of the table: {'; '.join(demo.METHODS)}; each by its name or a part that no "
        "other has, such as straight (default: all)",
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
        "--seed", type=int, default=0, help="of all that is drawn at random" + default
    )
    command.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder to write to" + default
    )
    command.add_argument(
        "--no-progress",
        dest="progress",
        action="store_false",
        help="show no progress bars",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
