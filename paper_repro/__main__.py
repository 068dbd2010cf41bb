"""The command line: `python -m paper_repro demo`."""

import argparse
import sys
from pathlib import Path

from paper_repro import demo
from paper_repro.data import DataError


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
    parser = argparse.ArgumentParser(prog="python -m paper_repro", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "demo",
        help="explain an ImageNet network's decision on a photograph",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "--image", default="coffee", help="a picture's path, or a name of scikit-image's: coffee …"
    )
    command.add_argument(
        "--class", dest="label", metavar="INDEX|NAME", help="explain this class, not the top one"
    )
    command.add_argument("--baseline", choices=sorted(demo.BASELINES), default="black")
    command.add_argument("--score", choices=sorted(demo.SCORES), default="probability")
    command.add_argument("--steps", type=int, default=64, help="nodes of the path integrals")
    command.add_argument("--samples", type=int, default=32, help="samples of SmoothGrad")
    command.add_argument(
        "--channels",
        choices=["sum", "absolute"],
        default="sum",
        help="draw the signed sum over the colours, or the sum of absolute values",
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, default=Path("demo-output"), help="folder to write to")
    command.add_argument("--no-progress", dest="progress", action="store_false")
    return parser


if __name__ == "__main__":
    sys.exit(main())
