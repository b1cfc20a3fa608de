"""What the library says of its arguments, as the command line tells it: of its options."""

import warnings

import pytest

from pm_gplvm.__main__ import run
from pm_gplvm.commands.arguments import HOME, options_of
from pm_gplvm.commands.wording import in_options_of, spoken

SAID = {
    "a value": ("fit", "pass missing='mask', which", "pass --missing mask, which"),
    "one of two by its value": ("fit", "pass missing='-' if", "pass --missing-code - if"),
    "a call": ("fit", "build_model(Y, missing='mask') takes", "--missing mask takes"),
    "a number in a call": (
        "fit",
        "load_table(path, missing=-9.9) puts",
        "--missing-code -9.9 puts",
    ),
    "no value": ("fit", "or pass sep= and decimal=.", "or pass --delimiter and --decimal."),
    "yes and no": ("fit", "header=False or header=True.", "--header no or --header yes."),
    "flags": ("fit", "overwrite=True, got ard=True", "--overwrite, got --ard"),
    "blanks": ("fit", "index='my id';", "--index 'my id';"),
    "two numbers": ("explore", "such as image_shape=(8, 9).", "such as --image-shape 8x9."),
    "another name": ("fit", "n_restarts must be 0, got 2.", "--restarts must be 0, got 2."),
    "two subjects": ("fit", "label and index must differ", "--label and --index must differ"),
    "what to raise": ("embed", "Raise draws or n_starts.", "Raise --draws or --starts."),
    "a name within": ("fit", "at this latent_dim = 2", "at this --latent-dim = 2"),
    "the table": ("fit", "Y has 5 equal rows", "The table has 5 equal rows"),
    "Python alone": ("fit", "load_table(path, index='a') or Y.set_index('a').", "--index a."),
    "another fit": ("fit", "Use fit_map, or fit_wrong.", "Use --fit map, or fit_wrong."),
    "a variable": ("fit", "fit_linear(other, start=best)", "fit_linear(other, start=best)"),
    "no option of this command": ("diagnose", "missing='mask'", "missing='mask'"),
    "a word of English": ("fit", "the scale of a label", "the scale of a label"),
    "to go on": ("fit", "Go on with start=fit, or raise epochs.", "Raise --epochs."),
    "to go on with": (
        "fit",
        "Go on from here: fit_svi(Y, start=fit), or raise epochs.",
        "Raise --epochs.",
    ),
    "interrupted": ("fit", "is returned. Go on from here with start=fit.", "is returned."),
    "a command": ("fit", "sample(model) tells", "pm-gplvm sample 'a b.nc' --full tells"),
}


@pytest.mark.parametrize(("command", "text", "told"), SAID.values(), ids=SAID)
def test_arguments_become_options(command, text, told):
    assert spoken(text, command, "a b.nc") == told


@pytest.mark.parametrize("command", HOME)
def test_all_options_can_be_said(command):
    for name, action in options_of(command).items():
        value = next(iter(action.choices or ["7"]))
        given = f"{name}=True" if action.nargs == 0 else f"{name}={value!r}"
        told = spoken(f"pass {given}.", command)
        assert told.startswith("pass --")
        assert "=" not in told


def test_errors_and_warnings_are_told_so():
    with pytest.warns(UserWarning, match=r"^scale: --scale feature$"), in_options_of("fit"):
        warnings.warn("scale: scale='feature'", stacklevel=1)
    with pytest.raises(TypeError, match=r"^--kernel must be text$"), in_options_of("fit"):
        raise TypeError("kernel must be text")
    with pytest.raises(OSError, match="No such file") as caught, in_options_of("fit"):
        open("nowhere/at/all").close()
    assert caught.value.filename == "nowhere/at/all"


def test_a_fit_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{(i * 7) % 5},{(i * i) % 11}" for i in range(12)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,c", *rows]))
    with pytest.warns(RuntimeWarning, match="pass --index a or --time a"):
        run(["fit", "a.csv", "--quiet", "--format", "none", "--max-iter", "200"])
    told = capsys.readouterr().out
    assert "start=fit" not in told
    assert "max_iter" not in told
    assert "(model" not in told
