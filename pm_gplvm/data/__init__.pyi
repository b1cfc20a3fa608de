from pm_gplvm.data.datasets import load_digits as load_digits
from pm_gplvm.data.datasets import load_table as load_table
from pm_gplvm.data.views import view as view
