"""
A page to move about in
=======================

`plot.explore` is a widget in Jupyter. With ``path`` it writes a page that needs nothing but a browser:
move over the plane to see what the model decodes there, click a point to see its row.
"""

# sphinx_gallery_thumbnail_path = "_static/explore.png"
import pm_gplvm as gplvm

Y = gplvm.data.load_digits(n=150)
best = gplvm.fit_marginal(
    gplvm.build_model(Y, kernel="rbf + linear"), random_seed=1, progressbar=False
)
page = gplvm.plot.explore(
    best, "label", image_shape=(8, 8), path="explore_digits.html", overwrite=True
)

# %%
# .. raw:: html
#
#    <iframe class="explorer" src="explore_digits.html" title="Digits to move about in"></iframe>
#    <p><a href="explore_digits.html">The page by itself</a></p>
