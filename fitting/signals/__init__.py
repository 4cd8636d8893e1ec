"""Signals: what fields are fitted to, as coordinates and targets."""

from fitting.signals import image as image
from fitting.signals.image import ImageSignals as ImageSignals
