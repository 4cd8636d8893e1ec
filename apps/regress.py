"""nf train regress: read a number, such as the PSNR of its fit, from the weights of a field."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import OmitArgPrefixes, arg

from apps.comparison import compare, measures
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads, not_both
from apps.output import Output
from apps.sides import sides
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from wsnets import Regressor
    from wsnets.data import Population


@dataclass(frozen=True, kw_only=True)
class TrainRegress:
    """Train a network that reads a number of a field from its weights alone: any numeric column of the index.

    A part of STORE is kept for validation and chooses the epoch. An interrupted run goes on where it stopped when the
    same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store, to train on."""
    out: OutPath
    """Folder of the regressor."""
    target: Annotated[str, arg(metavar="COLUMN")] = "psnr"
    """Column of the index that is read; `nf info STORE` lists them."""
    test: Annotated[str | None, arg(metavar="STORE", help_behavior_hint="(default: none)")] = None
    """Store of held-out fields to evaluate on."""
    test_fraction: float = 0.0
    """Without --test: share of STORE kept aside to evaluate on; copies of one item stay on one side."""
    compare: Annotated[str | None, arg(metavar="NAME,NAME,...", help_behavior_hint="(default: one --model)")] = None
    """Train several models, each in a folder of its name inside --out, and print one table."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_regress(options: TrainRegress, output: Output) -> None:
    """Run `nf train regress`."""
    from wsnets.train import RegressConfig, column, regress

    limit_threads(options.threads)
    not_both(compare=options.compare, model=options.training.model)
    store, test = sides(options)
    if test is not None:
        column(test, options.target)
    quiet = options.output.quiet or not is_lead()

    def prepare(name: str | None) -> RegressConfig:
        chosen = options.training if name is None else replace(options.training, model=name)
        return settings(RegressConfig, chosen, store.spec, "mlp", target=options.target)

    def train(config: RegressConfig, out: str, what: str = "train") -> tuple["Regressor", float, int]:
        return watched(lambda **watch: regress(store, config, out, **watch), quiet, what)

    def judged(regressor: "Regressor", population: "Population") -> dict[str, float]:
        return regressor.evaluate(population, column(population, options.target))

    def one(name: str, config: RegressConfig, out: str) -> dict[str, Any]:
        regressor, _, _ = train(config, out, name)
        row: dict[str, Any] = {"validation R2": regressor.training.get("val_r2")}
        if test is not None and is_lead():
            found = judged(regressor, test)
            row.update({"test R2": found["r2"], "test tau": found["tau"]})
        return {**row, **measures(regressor, out)}

    if options.compare is not None:
        compare(options.compare, options.out, prepare, one, output)
        return
    regressor, seconds, epochs = train(prepare(None), options.out)
    if not is_lead():
        return
    describe(regressor, seconds, epochs, options.out, output)
    if test is not None:
        found = judged(regressor, test)
        words = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        output.facts([("test", f"{words}, {len(test):,} held-out fields")])
        output.record(test_fields=len(test), **{f"test_{name}": value for name, value in found.items()})
    output.facts([("out", options.out)])
    output.record(out=options.out, target=options.target)
    output.next(["nf", "predict", options.out, options.test or options.store, "--out", "predictions.csv"])
