"""How a field is found: signals, recipes and the fit."""

from fitting import recipes as recipes
from fitting.config import FitConfig as FitConfig
from fitting.fit import FitProgress as FitProgress
from fitting.fit import FitResult as FitResult
from fitting.fit import fit as fit
from fitting.fit import fit_batch as fit_batch
from fitting.signals import image as images
from fitting.signals import shape as shapes
from fitting.signals import views as views
from fitting.view_run import ViewFitConfig as ViewFitConfig
from fitting.views_fit import fit_views as fit_views
