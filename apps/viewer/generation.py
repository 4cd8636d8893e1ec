"""Generation: new fields by trained generators, appended to the gallery as a part of their own."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import Part, of_batch
from apps.viewer.long_work import LongWork
from apps.viewer.networks import Entry

if TYPE_CHECKING:
    from apps.viewer.session import Session
    from neuralfields import FieldBatch
    from wsnets import FieldGenerator

EACH: str = "each in turn"
ANY: str = "none in particular"
AT_ONCE = 8  # fields made between two looks at whether they are still wanted
COUNTS = 8, 64
MOST_STEPS, USUAL_STEPS = 200, 50
OF_FITS = ("config", "recipe")  # what a store says of how its fields were fitted


class Generation:
    """A folder of controls in the gallery. show_part: told of the new part, by its name."""

    def __init__(self, session: "Session", show_part: Callable[[str], None]) -> None:
        self.session, self._show_part = session, show_part
        self._entries = session.viewer.networks.of("generate")

    def build(self) -> None:
        """Controls, where there is a generator."""
        if not self._entries:
            return
        gui, names = self.session.gui, [one.words for one in self._entries]
        with gui.add_folder("Generate"):
            self._generator = gui.add_dropdown("Network", names, visible=len(names) > 1)
            self._class = gui.add_dropdown("Of class", (ANY,), visible=False)
            self._count = gui.add_slider("Count", *COUNTS, 8, 16)
            self._guidance = gui.add_slider(
                "Guidance", 0.0, 4.0, 0.25, 1.0, hint="How much the class counts: 1 as learned, more exaggerates it"
            )
            self._steps = gui.add_slider("Steps", 5, MOST_STEPS, 5, USUAL_STEPS, hint="From noise to a field")
            self._seed = gui.add_number("Seed", 0, min=0, step=1, hint="Counts up, so that others are made every time")
            self._work = LongWork(self.session, "generate", "Generate", self._generate)
            self._work.build()
        self._generator.on_update(lambda _: self.session.do("generator", self._offer))
        self.session.do("generator", self._offer)

    @property
    def _entry(self) -> Entry:
        return next(one for one in self._entries if one.words == self._generator.value)

    def _offer(self) -> None:
        """The classes and the steps that the chosen generator knows."""
        with self.session.viewer.networks.using(self._entry) as generator:
            options = (EACH, ANY, *generator.classes) if generator.classes else (ANY,)
            self._steps.max = min(MOST_STEPS, generator.diffusion.steps)
            self._steps.value = min(int(self._steps.value), int(self._steps.max))
        if tuple(self._class.options) != options:
            self._class.options, self._class.value = options, options[0]
        self._class.visible = self._guidance.visible = len(options) > 1

    def _generate(self) -> Iterator[float]:
        from neuralfields import FieldBatch

        one, count, seed = self._entry, int(self._count.value), int(self._seed.value)
        networks, made = self.session.viewer.networks, []
        how = {"guidance": float(self._guidance.value), "steps": int(self._steps.value)}
        with networks.using(one) as generator:
            labels = labels_of(str(self._class.value), count, generator.classes)
        for first in range(0, count, AT_ONCE):
            some = labels[first : first + AT_ONCE]
            with networks.using(one) as generator:
                made.append(generator.generate(len(some), some, seed=seed, first=first, **how))
            yield (first + len(some)) / count
        names = {part.name for part in self.session.collection.parts}
        name = next(f"generated {n}" for n in range(1, len(names) + 2) if f"generated {n}" not in names)
        self.session.add(part(name, FieldBatch.cat(made), labels, generator, self.session.viewer.part))
        self._seed.value = seed + 1
        self._show_part(name)


def labels_of(choice: str, count: int, classes: tuple[str, ...]) -> np.ndarray:
    """Class of each field, (count,) int64: a class by its name, EACH of them in turn, or -1 for ANY."""
    if choice == EACH:
        return np.arange(count, dtype=np.int64) % len(classes)
    return np.full(count, -1 if choice == ANY else classes.index(choice), np.int64)


def part(name: str, fields: "FieldBatch", labels: np.ndarray, generator: "FieldGenerator", like: Part) -> Part:
    """Generated fields as a part, shown as the generator's training store says, and where it does not, as `like`."""
    from dataclasses import replace

    words = [generator.classes[label] if label >= 0 else "field" for label in labels]
    names = np.array([f"{word}-{number}" for number, word in enumerate(words)], object)
    found = of_batch(name, fields, {"label": labels, "name": names}, like)
    signal = {**(like.meta.get("signal") or {}), **generator.signal}
    meta = {key: value for key, value in like.meta.items() if key not in OF_FITS}
    return replace(found, meta={**meta, "signal": signal})
