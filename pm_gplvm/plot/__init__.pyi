from pm_gplvm.plot.decoded import magnification as magnification
from pm_gplvm.plot.decoded import reconstruction as reconstruction
from pm_gplvm.plot.explorer import explore as explore
from pm_gplvm.plot.fits import compare as compare
from pm_gplvm.plot.fits import optima as optima
from pm_gplvm.plot.fits import prior as prior
from pm_gplvm.plot.fits import relevance as relevance
from pm_gplvm.plot.latent_plot import latent as latent
