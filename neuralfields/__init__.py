"""What a field is: specs, populations, evaluation, symmetry, storage and pictures."""

from neuralfields import grids as grids
from neuralfields import inits as inits
from neuralfields import render as render
from neuralfields import symmetry as symmetry
from neuralfields.batch import FieldBatch as FieldBatch
from neuralfields.encodings import GaussianFourier as GaussianFourier
from neuralfields.encodings import Positional as Positional
from neuralfields.evaluate import evaluate as evaluate
from neuralfields.spec import SIREN as SIREN
from neuralfields.spec import FieldSpec as FieldSpec
from neuralfields.spec import ReLUField as ReLUField
from neuralfields.store import FieldStore as FieldStore
from neuralfields.store import open_store as open
