"""What the command line takes, and its help: nothing heavy is imported, so that help comes at once."""

import argparse
from collections.abc import Callable, Sequence
from textwrap import dedent, indent
from typing import Any

from pm_gplvm import __version__

Add = Callable[..., Any]

FITS = (
    "auto",
    "marginal",
    "map",
    "laplace",
    "sparse",
    "variational",
    "stochastic",
    "linear",
    "svi",
)
LIKELIHOODS = (
    *("gaussian", "student_t", "poisson", "negative_binomial", "bernoulli", "binomial", "ordinal"),
    *("lognormal", "gamma"),
)
PICTURES = ("latent", "reconstruction", "magnification", "relevance", "optima")

# Where each subcommand's function is, in this package.
HOME = {
    "fit": "fits",
    "sample": "fits",
    "demo": "fits",
    "embed": "uses",
    "diagnose": "uses",
    "plot": "uses",
    "explore": "uses",
    "info": "about",
}

_CODES = """\
exit codes:
  0    done
  1    you declined to replace a file, and nothing was changed
  2    a table, a file or an option cannot be used; one sentence says why
  3    diagnose: the verdict was not passed
  130  Ctrl-C; what was done until then is written and named

Results go to stdout, progress and warnings to stderr. No file is replaced unasked.
"""

_TOP = """\
examples:
  pm-gplvm demo                                 300 handwritten digits
  pm-gplvm info cells.csv                       what a table holds
  pm-gplvm fit cells.csv --label stage          positions, picture, fit
  pm-gplvm embed cells_fit.nc new.csv           where new rows lie
  pm-gplvm sample cells_fit.nc --full           draws of X and θ
  pm-gplvm diagnose cells_sample.nc             have the chains converged?

"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; ends the process with 0 after help, with 2 after a mistake."""
    parser = _parser("pm-gplvm", _TOP + _CODES)
    parser.description = "Embed tables with Gaussian process latent variable models."
    parser.add_argument("--version", action="version", version=f"pm_gplvm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (summary, epilog, parts) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + indent(dedent(epilog), "  ") + "\n" + _CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for part in parts:
            part(command)
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help()
        parser.exit()
    return options


def options_of(command: str) -> dict[str, argparse.Action]:
    """Return the options of a subcommand, by the names under which their values are kept."""
    parser = argparse.ArgumentParser(add_help=False)
    for part in _COMMANDS[command][2]:
        part(parser)
    return {action.dest: action for action in parser._actions if action.option_strings}


def _parser(prog: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", metavar="TABLE", help="a .csv, .tsv, .txt (also .gz), .parquet, .h5ad or .nc file"
    )


def _fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fit", metavar="FIT", help="a fit that was saved, .nc or .zarr")


def _either(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FIT|TABLE", help="a saved fit, or a table")


def _reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how the table is read").add_argument
    add("--label", metavar="COLUMN", help="column (or coordinate) that names each row's class")
    add(
        "--time",
        metavar="COLUMN",
        help="column (or coordinate) with each row's time: dates or numbers",
    )
    add(
        "--index",
        metavar="COLUMN",
        action="append",
        help="column that names the rows, once for each level (default: the first if it holds names or dates)",
    )
    add(
        "--drop",
        metavar="COLUMN",
        action="append",
        help="column to leave out, whatever it holds; once for each",
    )
    add(
        "--delimiter",
        "--sep",
        dest="sep",
        metavar="C",
        help="what separates fields of text (default: found)",
    )
    add("--decimal", choices=(".", ","), help="decimal mark of text (default: found)")
    add(
        "--header",
        choices=("yes", "no"),
        help="whether the first line names the columns (default: found)",
    )
    add("--layer", help="layer of an .h5ad file (default: X)")
    add(
        "--missing-code",
        metavar="CODE",
        action="append",
        default=[],
        help="what else stands for a missing entry, such as -999; may be given more than once",
    )


def _model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--latent-dim", type=int, default=2, metavar="Q", help="latent dimensions (default 2)")
    add(
        "--kernel",
        help="rbf, matern32, matern52, cauchy, linear, or one of them + linear, + bias; or factors over latent "
        "dimensions, 'rbf[0,1] + periodic[2]' (default: 'rbf + linear'; linear with --fit linear)",
    )
    add("--ard", action="store_true", help="a lengthscale for each latent dimension")
    add(
        "--scale",
        choices=("global", "feature", "none"),
        default="global",
        help="what columns are divided by: one number, each its own spread, or nothing (default global)",
    )
    add(
        "--missing",
        choices=("raise", "mask"),
        default="raise",
        help="what a missing entry means: an error, or one that was not measured (default raise)",
    )
    add(
        "--noise",
        choices=("shared", "column"),
        default="shared",
        help="one noise, or an amplitude and a noise of each column (default shared)",
    )
    add(
        "--likelihood",
        choices=LIKELIHOODS,
        default="gaussian",
        help="what entries are: numbers with noise, counts, 0 and 1 (bernoulli), successes among --trials (binomial), "
        "answers 1 to 5 (ordinal), positive numbers (default gaussian)",
    )
    add(
        "--likelihood-of",
        action="append",
        metavar="COLUMN=NAME",
        help="likelihood of a column where it is another than --likelihood, once for each; binomial:N among N trials",
    )
    add("--trials", type=int, metavar="N", help="trials of each entry under binomial")
    add(
        "--offset",
        choices=("size",),
        help="size: rows of counts differ by their sums, which positions then do not show",
    )
    add(
        "--prior",
        choices=("dynamics", "classes"),
        help="what X knows: that it moves smoothly along --time, or the classes of --label",
    )


def _inference(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("inference").add_argument
    add(
        "--fit",
        "--inference",
        dest="inference",
        choices=FITS,
        default="auto",
        help="how X and θ are found (default auto: what suits the likelihood and the size of the table)",
    )
    add(
        "--n-inducing",
        type=int,
        metavar="M",
        help="inducing inputs of --fit sparse, variational and svi",
    )
    add("--epochs", type=float, metavar="E", help="passes of --fit svi over the table")
    add("--batch-size", type=int, metavar="B", help="rows in a step of --fit svi")
    add("--restarts", type=int, default=0, metavar="R", help="further starts (default 0)")
    add(
        "--start",
        choices=("pca", "isomap", "random"),
        default="pca",
        help="first start (default pca)",
    )
    add("--max-iter", type=int, metavar="N", help="iterations of each start at most")
    add(
        "--cores",
        type=int,
        help="starts of --fit marginal and map, and chains, that run at once (default 1; of --full as many as can)",
    )
    _seed(add)


def _seed(add: Add) -> None:
    add("--seed", type=int, default=1, help="random seed (default 1)")


def _draws(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--draws", type=int, metavar="S", help="draws a chain (default 500; --full 1000)")
    add("--tune", type=int, metavar="S", help="warm-up draws a chain (default 300; --full 500)")
    add("--chains", type=int, help="chains (default 4; of an ensemble 8)")


def _full(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is sampled").add_argument
    add("--full", action="store_true", help="X and θ together, not θ at the positions of a fit")
    add(
        "--resume",
        action="store_true",
        help="go on from FIT, made by --full, in its files or in those of --out",
    )
    add(
        "--explore",
        choices=("auto", "global", "ensemble", "local"),
        help="what --full explores: all embeddings by temperatures (for up to about 60 rows), several embeddings "
        "weighed by what they predict, or the neighbourhoods of FIT (default auto: by the number of rows)",
    )
    add("--thin", type=int, metavar="K", help="iterations for each kept draw of --full (default 1)")
    add(
        "--replicas",
        metavar="R",
        help="replicas of each chain of --full at flatter powers of the likelihood, which help where chains "
        "disagree; 1 costs least (default auto: as many as it takes)",
    )


def _files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files").add_argument
    add(
        "--out",
        metavar="NAME",
        help="files begin with NAME (default: that of the table); NAME.nc or NAME.zarr is the fit itself; "
        "- prints the positions and writes nothing",
    )
    add("--to", choices=("nc", "zarr"), help="how fits are written (default nc, or as --out ends)")
    add(
        "--format",
        choices=("png", "svg", "none"),
        default="png",
        help="of the picture (default png)",
    )
    _color(add)
    _manners(parser)


def _color(add: Add) -> None:
    add(
        "--color",
        metavar="NAME",
        help="what points are coloured by: label, time or a column of the table (default: label, else time)",
    )


def _manners(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--overwrite", action="store_true", help="replace files without asking")
    add("--quiet", action="store_true", help="no progress")


def _rows(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is drawn").add_argument
    add(
        "--draws",
        type=int,
        default=1000,
        metavar="S",
        help="positions drawn for a row (default 1000)",
    )
    add("--starts", type=int, default=16, metavar="R", help="starts for a row (default 16)")
    _seed(add)
    parser.add_argument(
        "--out", metavar="FILE", help="a .csv, or - for stdout (default TABLE_positions.csv)"
    )
    _manners(parser)


def _pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--kind", choices=PICTURES, default="latent", help="which picture (default latent)")
    _color(add)
    _plane(add)
    add("--time", metavar="NAME", help="coordinate of the fit along which rows are joined")
    add("--background", choices=("uncertainty", "density", "none"), help="shades of latent")
    add("--out", metavar="FILE", help="a .png or .svg (default: FIT.png)")
    add("--format", choices=("png", "svg"), help="of the picture where --out does not say")
    _manners(parser)


def _plane(add: Add) -> None:
    add("--dims", metavar="I,J", help="which latent dimensions (default: the most relevant two)")
    add("--image-shape", metavar="HxW", help="rows are images, such as 8x8")


def _page(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _color(add)
    _plane(add)
    add(
        "--kind",
        choices=("image", "curve", "bars"),
        help="how a row is shown (default: by its size)",
    )
    add("--out", metavar="FILE", help="an .html (default: FIT.html)")
    _manners(parser)


def _judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", type=int, metavar="P", help="pairs of rows that are looked at (default: N)"
    )


_COMMANDS: dict[str, tuple[str, str, tuple[Callable[[argparse.ArgumentParser], None], ...]]] = {
    "fit": (
        "embed a table: a fit, its positions as .csv, a picture, scores",
        """\
          pm-gplvm fit cells.csv --label stage
          pm-gplvm fit spectra.parquet --scale feature --latent-dim 3 --ard --restarts 4
          pm-gplvm fit sensors.csv --time date --prior dynamics --missing mask
          pm-gplvm fit counts.h5ad --label louvain --layer log --fit sparse --n-inducing 200
          pm-gplvm fit counts.h5ad --label louvain --likelihood negative_binomial --offset size
          pm-gplvm fit answers.csv --likelihood ordinal --likelihood-of smokes=bernoulli --missing mask
          pm-gplvm fit messung.csv --delimiter ';' --decimal , --out results/run1 --format svg
          pm-gplvm fit cells.csv --label stage --out - > positions.csv
        """,
        (
            _table,
            _reading,
            _model,
            _inference,
            _files,
        ),
    ),
    "embed": (
        "place new rows in a fit: a .csv of positions, their sds, and how sure they are",
        """\
          pm-gplvm embed cells_fit.nc new.csv
          pm-gplvm embed cells_fit.nc new.csv --label stage --out - | head
        """,
        (
            _fit,
            _table,
            _reading,
            _rows,
        ),
    ),
    "sample": (
        "draw θ at the positions of a fit, or X and θ together",
        """\
          pm-gplvm sample cells_fit.nc
          pm-gplvm sample cells_fit.nc --full --draws 2000 --out cells
          pm-gplvm sample cells_sample.nc --resume --draws 1000
          pm-gplvm sample cells.csv --label stage          (fits first)
        """,
        (
            _either,
            _full,
            _draws,
            _reading,
            _model,
            _inference,
            _files,
        ),
    ),
    "diagnose": (
        "judge whether the chains of a fit have converged; 3 if not, or if there is nothing to judge",
        """\
          pm-gplvm diagnose cells_sample.nc
          pm-gplvm diagnose cells_sample.nc && pm-gplvm plot cells_sample.nc
        """,
        (
            _fit,
            _judging,
        ),
    ),
    "plot": (
        "draw a fit",
        """\
          pm-gplvm plot cells_fit.nc --color GAPDH
          pm-gplvm plot digits_fit.nc --kind reconstruction --image-shape 8x8 --out digits.svg
        """,
        (
            _fit,
            _pictures,
        ),
    ),
    "explore": (
        "write an HTML page in which to move about in a fit; it needs only a browser",
        """\
          pm-gplvm explore digits_fit.nc --image-shape 8x8
        """,
        (
            _fit,
            _page,
        ),
    ),
    "info": (
        "say what a file holds, a table or a fit",
        """\
          pm-gplvm info cells.csv
          pm-gplvm info cells_fit.nc
        """,
        (
            _either,
            _reading,
        ),
    ),
    "demo": (
        "embed 300 handwritten digits and sample θ: two fits, positions, a picture, a table of scores",
        """\
          pm-gplvm demo
          pm-gplvm demo --latent-dim 3 --overwrite
        """,
        (
            _draws,
            _model,
            _inference,
            _files,
        ),
    ),
}
