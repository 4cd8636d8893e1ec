"""What a field is: specs, populations, evaluation, symmetry, storage and pictures."""

from neuralfields import grids as grids
from neuralfields import inits as inits
from neuralfields import render as render
from neuralfields import symmetry as symmetry
from neuralfields.batch import FieldBatch as FieldBatch
from neuralfields.encodings import GaussianFourier as GaussianFourier
from neuralfields.encodings import Positional as Positional
from neuralfields.evaluate import density as density
from neuralfields.evaluate import evaluate as evaluate
from neuralfields.hash_grid import HashGrid as HashGrid
from neuralfields.spec import SIREN as SIREN
from neuralfields.spec import FieldSpec as FieldSpec
from neuralfields.spec import HashField as HashField
from neuralfields.spec import HashNeRF as HashNeRF
from neuralfields.spec import NeRF as NeRF
from neuralfields.spec import ReLUField as ReLUField
from neuralfields.spec import TriPlaneField as TriPlaneField
from neuralfields.spec import TriPlaneNeRF as TriPlaneNeRF
from neuralfields.store import FieldStore as FieldStore
from neuralfields.store import open_store as open
from neuralfields.tri_plane import TriPlane as TriPlane
from neuralfields.view_head import ViewHead as ViewHead
