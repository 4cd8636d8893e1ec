"""Prediction: what a trained reader says of the open field, and on a button of all fields in view."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.alteration import Alteration, Last, Named
from apps.viewer.collection import NO_LABEL
from apps.viewer.long_work import LongWork
from apps.viewer.markdown import plain
from apps.viewer.network_fields import takes
from apps.viewer.networks import Entry
from apps.viewer.predictions import Found, bars, class_columns, percent, read, value_columns

if TYPE_CHECKING:
    from neuralfields import FieldBatch

READERS = ("classify", "meta", "regress")


class Prediction(Alteration):
    """A picture of probabilities, or a number; that of altered fields below."""

    def build(self) -> None:
        """Controls, where there is a reader."""
        gui, self._entries = self.session.gui, self.session.viewer.networks.of(*READERS)
        if not self._entries:
            return
        self._told, names = Last(), [one.words for one in self._entries]
        with gui.add_folder("Prediction"):
            self._reader = gui.add_dropdown("Network", names, visible=len(names) > 1)
            self._title = gui.add_markdown("")
            self._picture = gui.add_image(np.full((8, 16, 3), 255, np.uint8), visible=False)
            self._others = gui.add_markdown("", visible=False)
            self._work = LongWork(self.session, "predict", "Predict all in view", self._predict_all)
            self._work.build()
            self._score = gui.add_markdown("", visible=False)
        self._reader.on_update(lambda _: self.pane.redraw())

    @property
    def _entry(self) -> Entry:
        return next(one for one in self._entries if one.words == self._reader.value)

    def tell(self, field: "FieldBatch", altered: list[Named]) -> None:
        """What the chosen reader says of the open field, and of the altered ones."""
        if self._entries:
            part, row = self.session.collection.place(self.session.position)
            about = (self._entry, part, row, tuple(altered))
            self._told.find(field, about, lambda: self._say(field, altered))

    def _say(self, field: "FieldBatch", altered: list[Named]) -> None:
        one = self._entry
        not_read = f"{plain(one.words)} does not read this field"
        part, row = self.session.collection.place(self.session.position)
        self._picture.visible = self._others.visible = False
        if field.spec != one.spec:
            self._title.content = f"{not_read}: it reads {one.spec.describe()}."
            return
        if not field.flat().isfinite().all():
            self._title.content = f"{not_read}: some of its weights are NaN or infinite."
            return
        with self.session.viewer.networks.using(one) as network:
            classes = () if one.task == "regress" else tuple(network.classes)
            target = network.target if one.task == "regress" else ""
        said = self.session.viewer.networks.predict(one, field)[0]
        if classes:
            label = int(part.column("label")[row])
            self._title.content = class_title(one.words, said, classes, label)
            self._picture.image = bars(said, classes, label)
            self._picture.visible = True
        else:
            truth = float(part.columns.get(target, np.full(len(part), np.nan))[row])
            self._title.content = value_title(one.words, float(said), target, truth)
        lines = []
        for name, other in altered:
            if takes(one, other):
                read = in_words(self.session.viewer.networks.predict(one, other)[0], classes)
                lines.append(f"{plain(name)}: {plain(read)}")
        self._others.content, self._others.visible = "  \n".join(lines), bool(lines)

    def _predict_all(self) -> Iterator[float]:
        session, one, found = self.session, self._entry, Found()
        collection = session.collection  # fields may land while it is read
        networks = session.viewer.networks
        yield from read(collection, session.chosen, one.spec, lambda fields: networks.predict(one, fields), found)
        with networks.using(one) as network:
            more = {}
            for part in collection.parts:
                if part.name not in found:
                    continue
                if one.task == "regress":
                    more[part.name] = value_columns(part, *found[part.name], network.target)
                else:
                    more[part.name] = class_columns(part, *found[part.name], tuple(network.classes))
        session.add_columns(more, collection)
        self._score.content, self._score.visible = score(one.words, found, more), True


def in_words(said: np.ndarray, classes: tuple[str, ...]) -> str:
    """A prediction in one line."""
    return f"{classes[said.argmax()]}, {percent(float(said.max()))}" if classes else f"{float(said):.4g}"


def class_title(words: str, said: np.ndarray, classes: tuple[str, ...], label: int) -> str:
    """What a classifier says of one field, as markdown."""
    chosen = int(said.argmax())
    verdict = "" if label == NO_LABEL else ", which is right" if chosen == label else ", which is wrong"
    return f"{plain(words)} reads **{plain(classes[chosen])}**{verdict}."


def value_title(words: str, said: float, target: str, truth: float) -> str:
    """What a regressor says of one field, as markdown."""
    target, words = plain(target), plain(words)
    lines = ["| | |", "|:--|--:|", f"| {target} predicted by {words} | **{said:.4g}** |"]
    if np.isfinite(truth):
        lines += [f"| {target} | {truth:.4g} |", f"| error | {said - truth:+.3g} |"]
    return "\n".join(lines)


def score(words: str, found: Found, more: dict[str, dict[str, np.ndarray]]) -> str:
    """How good the predictions of a network are, as markdown. words: what a person calls it; found: of all parts; more:
    the columns made of them."""
    name = next((name for name in ("right", "error") for columns in more.values() if name in columns), "")
    figures = np.concatenate([columns[name] for columns in more.values()]) if name else np.zeros(0)
    known, count = figures[np.isfinite(figures)], sum(len(rows) for rows, _ in found.values())
    how = ""
    if len(known):
        how = f", {100 * known.mean():.2f} % right" if name == "right" else f", mean error {np.abs(known).mean():.3g}"
    return f"{plain(words)}: {count:,} fields read{how}. The gallery can sort and filter by it."
