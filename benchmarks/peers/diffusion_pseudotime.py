"""Scanpy's diffusion pseudotime of the embryo cells, beside `python -m benchmarks pseudotime`.

    python3 -m venv benchmarks/.peers/scanpy
    benchmarks/.peers/scanpy/bin/pip install scanpy
    benchmarks/.peers/scanpy/bin/python benchmarks/peers/diffusion_pseudotime.py ../shared/data/guo_qpcr.csv

Neighbours in the genes themselves and in ten principal components, 15 (the default) and 30 of them; the root is
each of the nine cells of the first stage in turn. It is told the root and nothing else. Prints a table in Markdown.
"""

import sys
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
import anndata  # noqa: E402
import scanpy as sc  # noqa: E402
from scipy.stats import kendalltau, spearmanr  # noqa: E402
from sklearn.metrics import silhouette_score  # noqa: E402


def main(path: str) -> None:
    frame = pd.read_csv(path, index_col=0)
    kind = frame.index.astype(str).to_numpy()
    stage = np.array([int(name.split()[0]) for name in kind])
    roots, last = np.flatnonzero(stage == 1), stage == 64
    print(
        "| neighbours | Spearman, all | Spearman, others | Kendall, others | nearest of the same kind | silhouette |"
    )
    print("|---|---|---|---|---|---|")
    for n in (15, 30):
        for components in (0, 10):
            cells = anndata.AnnData(frame.to_numpy(dtype=float))
            if components:
                sc.pp.pca(cells, n_comps=components)
            sc.pp.neighbors(cells, n_neighbors=n, use_rep="X_pca" if components else "X")
            sc.tl.diffmap(cells)
            rows = []
            for root in roots:
                cells.uns["iroot"] = root
                sc.tl.dpt(cells)
                x = cells.obs["dpt_pseudotime"].to_numpy()
                out = stage > 1
                rows.append(
                    [
                        spearmanr(x, stage).statistic,
                        spearmanr(x[out], stage[out]).statistic,
                        kendalltau(x[out], stage[out]).statistic,
                    ]
                )
            low, high = np.min(rows, axis=0), np.max(rows, axis=0)
            X = cells.obsm["X_diffmap"][last, 1:3]
            apart = ((X[:, None] - X) ** 2).sum(axis=2)
            np.fill_diagonal(apart, np.inf)
            same = (kind[last][apart.argmin(axis=1)] == kind[last]).mean()
            ranks = [f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)]
            where = f"{n}, {components} components" if components else f"{n}, genes"
            silhouette = silhouette_score(X, kind[last])
            print(f"| {where} | {' | '.join(ranks)} | {100 * same:.1f} % | {silhouette:.3f} |")
    print(f"\nVersions: scanpy {version('scanpy')}, anndata {version('anndata')}.")


if __name__ == "__main__":
    main(sys.argv[1])
