"""Networks whose input is a field: weight features, models, training and evaluation."""

from wsnets import evaluation as evaluation
from wsnets import features as features
from wsnets import models as models
from wsnets import train as train
from wsnets.data import Population as Population
from wsnets.data import Subset as Subset
from wsnets.evaluation import Evaluation as Evaluation
from wsnets.reader import Reader as Reader
from wsnets.train import ClassifyConfig as ClassifyConfig
from wsnets.train import TrainProgress as TrainProgress
from wsnets.train import classify as classify
