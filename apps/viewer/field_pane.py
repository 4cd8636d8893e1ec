"""FieldPane: one field, with its figures, how it was fitted, and its weights; what it shows is a subclass's matter."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from apps.viewer.alteration import Alteration, Named
from apps.viewer.changes import Changes
from apps.viewer.collection import Part
from apps.viewer.jobs import Job
from apps.viewer.markdown import plain, shell
from apps.viewer.network_fields import NetworkFields
from apps.viewer.pane import Pane
from apps.viewer.prediction_folder import Prediction
from apps.viewer.refit import refit
from apps.viewer.session import nearest_position

if TYPE_CHECKING:
    from neuralfields import FieldBatch

BLANK = np.full((8, 16, 3), 255, np.uint8)
NOT_FIGURES = ("id", "label", "group", "steps")


class FieldPane(Pane):
    """The open field, beside what alterations make of it. kinds of alterations: built in this order."""

    label = "Field"
    alterations: ClassVar[tuple[type[Alteration], ...]] = (Prediction, NetworkFields, Changes)

    def build(self) -> None:
        """Controls: which field, how it is shown, what is known of it."""
        gui = self.session.gui
        self._told: tuple[Part, int] | None = None  # the field whose facts are shown
        step = gui.add_button_group("In view", ("Previous", "Next"))
        step.on_click(lambda event: self.session.do("step", lambda: self._step(str(event.target.value))))
        self._number = gui.add_number(
            "Field", self.session.position, min=0, max=len(self.session.collection) - 1, step=1
        )
        self._number.on_update(lambda event: self._typed(int(event.target.value)) if event.client else None)
        self.build_view()
        self._alterations = [make(self) for make in self.alterations]
        for alteration in self._alterations:
            alteration.build()
        self._facts = gui.add_markdown("")
        with gui.add_folder("How it was fitted", expand_by_default=False):
            self._recipe = gui.add_markdown("")
            self._curve = gui.add_image(BLANK, visible=False)
        with gui.add_folder("Weights", expand_by_default=False):
            self._histograms = gui.add_image(BLANK, label="Weights of each layer")
            self._spectrum = gui.add_image(BLANK, label="Hidden units along a line")

    @abstractmethod
    def build_view(self) -> None:
        """Add the controls of what the field shows."""

    @abstractmethod
    def draw_view(self, field: "FieldBatch", altered: "list[tuple[str, FieldBatch]]") -> Job:
        """Show the field on the stage, and beside it the altered ones, with their names."""

    def draw(self) -> Job:
        """The picture first, then what is known of the field."""
        field = self.session.collection.field(self.session.position)
        altered = [other for one in self._alterations for other in one.apply(field)]
        yield from self.draw_view(field, altered)
        self.session.do("tell", lambda: self._tell(field, altered))
        part, row = self.session.collection.place(self.session.position)
        if self._told != (part, row):  # a camera that moves tells nothing new of the field
            self.session.do("facts", self._draw_facts)

    def _tell(self, field: "FieldBatch", altered: list[Named]) -> Job:
        for one in self._alterations:
            one.tell(field, altered)
            yield 0.0

    def changed(self) -> None:
        """Another field is open, or there are more."""
        self._number.max = len(self.session.collection) - 1
        if self._number.value != self.session.position:
            self._number.value = self.session.position

    def _typed(self, position: int) -> None:
        if position != self.session.position:
            self.session.do("step", lambda: self.session.choose_field(position))

    def _step(self, word: str) -> None:
        step = 1 if word == "Next" else -1
        self.session.choose_field(nearest_position(self.session.chosen, self.session.position, step))

    def _draw_facts(self) -> Job:
        part, row = self._told = self.session.collection.place(self.session.position)
        field = self.session.collection.field(self.session.position)
        self._facts.content = facts(part, row, self.session.collection.label_name(int(part.column("label")[row])))
        self._recipe.content = recipe(part)
        values = curve_of(part, row)
        yield 0.0
        self._curve.visible = values is not None
        if values is not None:
            from apps.viewer.weights_picture import curve

            self._curve.image = curve(values, (part.meta.get("config") or {}).get("curve_every"))
        yield 0.0
        from apps.viewer.weights_picture import histograms, spectrum

        self._histograms.image = histograms(field)
        yield 0.0
        self._spectrum.image = spectrum(field)


def facts(part: Part, row: int, label: str) -> str:
    """A table of what the index says of a field, as markdown."""
    lines = ["| | |", "|:--|--:|"]
    if label != "none":
        lines.append(f"| class | {plain(label)} |")
    for name, values in part.columns.items():
        value = values[row]
        if name in NOT_FIGURES or value == "" or (isinstance(value, float | np.floating) and not np.isfinite(value)):
            continue
        shown = f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
        unit = " dB" if name == "psnr" else ""
        lines.append(f"| {plain(name.replace('_', ' '))} | {plain(shown)}{unit} |")
    return "\n".join(lines)


def recipe(part: Part) -> str:
    """How the field was fitted: the settings that stores differ in, and a command that does it again; as markdown."""
    config, signal = part.meta.get("config") or {}, part.meta.get("signal") or {}
    if not config:
        return "It was not fitted: its weights were made."
    names = ("steps", "lr", "loss", "batch", "optimizer", "schedule", "init", "dtype", "seed")
    lines = ["| | |", "|:--|--:|", f"| network | {part.spec.describe()} |"]
    lines += [f"| {name} | {plain(config[name])} |" for name in names if config.get(name) not in (None, "")]
    command = refit(part)
    return (
        "\n".join(lines)
        + (f"\n\n{shell(command)}" if command else "")
        + (f"\n\nSource: {plain(signal['source'])}" if signal.get("source") else "")
    )


def curve_of(part: Part, row: int) -> np.ndarray | None:
    """Losses while a field was fitted, finite ones; None where none are kept."""
    one = getattr(part.fields, "curve", None)
    values = None if one is None else one(row)
    if values is None or not np.isfinite(values).any():
        return None
    return values[np.isfinite(values)]
