"""Networks whose input is a field: weight features, models, training and evaluation."""

from wsnets import evaluation as evaluation
from wsnets import features as features
from wsnets import models as models
from wsnets import train as train
from wsnets.data import Population as Population
from wsnets.data import Subset as Subset
from wsnets.editor import Editor as Editor
from wsnets.embedder import Embedder as Embedder
from wsnets.evaluation import Evaluation as Evaluation
from wsnets.operations import Operation as Operation
from wsnets.reader import Reader as Reader
from wsnets.regressor import Regressor as Regressor
from wsnets.train import ClassifyConfig as ClassifyConfig
from wsnets.train import ContrastConfig as ContrastConfig
from wsnets.train import EditConfig as EditConfig
from wsnets.train import RegressConfig as RegressConfig
from wsnets.train import TrainProgress as TrainProgress
from wsnets.train import classify as classify
from wsnets.train import contrast as contrast
from wsnets.train import edit as edit
from wsnets.train import regress as regress
