from pm_gplvm.model.approximate import build_sparse as build_sparse
from pm_gplvm.model.approximate import build_variational as build_variational
from pm_gplvm.model.build import rebuild as rebuild
from pm_gplvm.model.compile import compile_mode as compile_mode
from pm_gplvm.model.density import compile_objective as compile_objective
from pm_gplvm.model.gradient_parts import gradients as gradients
