"""Pictures of fields."""

from neuralfields.render.image import image as image
from neuralfields.render.sheet import save_png as save_png
from neuralfields.render.sheet import sheet as sheet
