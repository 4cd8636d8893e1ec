"""Merge: copies of a field merge into it, a soup is never worse than its best part, items do not see each other."""

import pytest
import torch

from neuralfields import FieldBatch, FieldSpec, symmetry
from neuralfields.testing import random_fields
from wsnets.align import distance
from wsnets.merge import align_parts, greedy_soup, mean, merge

SPEC = FieldSpec(in_dim=2, out_dim=1, hidden=(6, 5), activation="sine", w0_first=20.0, w0_hidden=7.0)
METHODS = ("mean", "aligned", "transport", "soup")


def copies(fields: FieldBatch, count: int, generator: torch.Generator) -> list[FieldBatch]:
    return [symmetry.act(symmetry.sample(SPEC, len(fields), generator), fields) for _ in range(count)]


def size(fields: FieldBatch) -> torch.Tensor:
    return fields.flat().double().square().sum(1)


@pytest.mark.parametrize("method", ["aligned", "transport", "soup"])
def test_moved_copies_merge_into_the_first(method: str, generator: torch.Generator) -> None:
    parts = copies(random_fields(SPEC, 4, generator), 3, generator)
    merged = merge(parts, method, loss=lambda fields: torch.zeros(len(fields)))  # type: ignore[arg-type]
    assert torch.allclose(merged.flat(), parts[0].flat(), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(merge(parts, "mean").flat(), parts[0].flat())


@pytest.mark.parametrize("method", METHODS)
def test_one_part_is_itself_and_items_stand_alone(method: str, generator: torch.Generator) -> None:
    parts = [random_fields(SPEC, 4, generator, torch.float32) for _ in range(3)]
    assert torch.equal(merge(parts[:1], method, loss=size).flat(), parts[0].flat())  # type: ignore[arg-type]
    together = merge(parts, method, loss=size)  # type: ignore[arg-type]
    assert together.flat().dtype == torch.float32
    for n in range(4):
        alone = merge([part[n] for part in parts], method, loss=size)  # type: ignore[arg-type]
        assert torch.equal(alone.flat(), together[n].flat())


def test_alignment_of_parts_keeps_functions_and_brings_them_nearer(generator: torch.Generator) -> None:
    parts = [random_fields(SPEC, 5, generator) for _ in range(4)]
    near = align_parts(parts)

    def scatter(fields: list[FieldBatch]) -> torch.Tensor:
        return torch.stack([distance(part, mean(fields)) for part in fields]).sum(0)

    assert (scatter(near) < scatter(parts)).all()
    again = [symmetry.canonicalise(part).flat() for part in near]
    assert torch.allclose(torch.stack(again), torch.stack([symmetry.canonicalise(part).flat() for part in parts]))


def test_a_greedy_soup_is_never_worse_than_its_best_part(generator: torch.Generator) -> None:
    parts = [random_fields(SPEC, 6, generator) for _ in range(4)]
    target = random_fields(SPEC, 6, generator).flat()

    def loss(fields: FieldBatch) -> torch.Tensor:
        return (fields.flat() - target).square().sum(1)

    best = torch.stack([loss(part) for part in parts]).amin(0)
    assert (loss(greedy_soup(parts, loss)) <= best + 1e-12).all()
    # Where any other part hurts, the best one is left as it is.
    spoiled = [parts[0], FieldBatch.from_flat(SPEC, parts[0].flat() + 100.0)]
    assert torch.equal(greedy_soup(spoiled, loss).flat(), parts[0].flat())


def test_widths_may_differ_for_transport_alone(generator: torch.Generator) -> None:
    wide = FieldSpec.from_json({**SPEC.to_json(), "hidden": [9, 7]})
    parts = [random_fields(SPEC, 2, generator), random_fields(wide, 2, generator)]
    assert merge(parts, "transport").spec == SPEC
    with pytest.raises(ValueError, match="parts has 2 fields of"):
        merge(parts, "mean")


def test_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    parts = [random_fields(SPEC, 3, generator), random_fields(SPEC, 2, generator)]
    cases = [
        (lambda: merge([], "mean"), r"parts=\[\]"),
        (lambda: merge(parts, "mean"), "parts has 2 fields"),
        (lambda: merge(parts[:1], "sum"), "method='sum'"),  # type: ignore[arg-type]
        (lambda: merge(parts[:1], "soup"), "loss=None"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
