"""GPy's manifold relevance determination: the bound of two tables at equal parameters, beside that of `fit_variational`.

    .venv/bin/python benchmarks/peers/gpy_mrd.py TASK.npz                            # draws parameters, and our bound
    benchmarks/.peers/gpy/bin/python -P benchmarks/peers/gpy_mrd.py TASK.npz         # models.MRD at the same

GPy has one set of inducing inputs for all tables, so that ours are equal here. The second call, which finds TASK,
prints both bounds and their relative difference: GPy 1.15.0 -1765.848225, ours -1765.848142, 4.7e-08, by the jitter of K.
"""

import sys
from pathlib import Path

import numpy as np

N, Q, M = 60, 4, 15
COLUMNS = {"one": 7, "two": 5}


def write(path: Path) -> None:
    """Draw tables and parameters, evaluate our bound, and write all of it."""
    import pytensor

    import pm_gplvm as gplvm

    rng = np.random.default_rng(1)
    tables = {name: rng.standard_normal((N, D)).cumsum(axis=0) / 5.0 for name, D in COLUMNS.items()}
    tables = {name: Y - Y.mean(axis=0) for name, Y in tables.items()}
    values = {
        "X_mean": rng.standard_normal((N, Q)),
        "X_sd": rng.uniform(0.1, 0.9, (N, Q)),
    }
    W = rng.standard_normal((M, Q))
    for name in COLUMNS:
        values[f"X_inducing_{name}"] = W
        values[f"lengthscale_{name}"] = rng.uniform(0.7, 4.0, Q)
        values[f"amplitude_{name}"] = rng.uniform(0.5, 1.5)
        values[f"sigma_{name}"] = rng.uniform(0.2, 0.6)
    model = gplvm.build_model(tables, Q, ard=True, scale="none", resolution=0)
    bound = gplvm.model.build_variational(model, n_inducing=M)
    terms = [bound[name] for name in ("minus_KL", *(f"likelihood_bound_{n}" for n in COLUMNS))]
    evaluate = pytensor.function([bound[name] for name in values], terms)
    found = float(sum(evaluate(*values.values())))
    np.savez(path, ours=found, **values, **{f"Y_{name}": Y for name, Y in tables.items()})
    print(f"ours {found!r}")


def compare(path: Path) -> None:
    """Evaluate GPy's bound at what the file holds."""
    import GPy

    with np.load(path) as task:
        known = dict(task)
    model = GPy.models.MRD(
        {name: known[f"Y_{name}"] for name in COLUMNS},
        Q,
        X=known["X_mean"],
        X_variance=known["X_sd"] ** 2,
        num_inducing=M,
        kernel=[
            GPy.kern.RBF(
                Q,
                ARD=True,
                variance=float(known[f"amplitude_{name}"]) ** 2,
                lengthscale=known[f"lengthscale_{name}"],
            )
            for name in COLUMNS
        ],
        likelihoods=[
            GPy.likelihoods.Gaussian(variance=float(known[f"sigma_{name}"]) ** 2)
            for name in COLUMNS
        ],
    )
    model.Z[:] = known["X_inducing_one"]  # an assignment to Z would reach none of its tables
    model._trigger_params_changed()
    theirs, ours = float(np.squeeze(model.log_likelihood())), float(known["ours"])
    print(f"GPy {GPy.__version__} {theirs!r}, ours {ours!r}, {abs(theirs / ours - 1.0):.1e}")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    (compare if file.exists() else write)(file)
