"""Deep aligner: a trained network that brings fields next to others in one pass.

Legend: N fields, H hidden units of a layer, D numbers of a unit's vector.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Element
from wsnets import models
from wsnets.align import align
from wsnets.data import check_finite
from wsnets.features import weight_features
from wsnets.models.deep_align import DeepAlignConfig, scores, signed
from wsnets.network import Network, check_spec, fresh
from wsnets.unit_moves import from_scores, normal_form, settle, told_by_no_score


@dataclass(frozen=True, kw_only=True)
class DeepAligner(Network):
    """Pairs of fields -> the element that brings the one next to the other."""

    task = "align"

    def about(self) -> dict:
        """Nothing beside what all networks have."""
        return {}

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model."""
        if not isinstance(settings, DeepAlignConfig):
            raise ValueError(f"model={models.name_of(settings)!r} aligns nothing: expected deep_align")
        return settings.build_aligner(spec, fresh()), {}

    def element(self, fields: FieldBatch, reference: FieldBatch, rounds: int = 0) -> Element:
        """The element whose act(element, fields) is near the reference: N fields, and as many references or one.

        Phases and scales are taken out of both (unit_moves.normal_form), the network says which unit goes where, with
        which sign, and weight matching with the units in their places has the last word on phases and scales (and on
        signs, where the activation is even and outputs do not show them). Then come so many rounds of weight matching
        over all kinds (0: none), from where the network has left off. So
        compose(element(act(g, f), r), g) = element(f, r), up to rounding and for generic weights. Raises ValueError for
        fields of another spec or with NaN, and another count of references.
        """
        if len(reference) not in (1, len(fields)):
            raise ValueError(f"reference holds {len(reference)} fields: expected 1 or {len(fields)}")
        odd, loose = signed(self.spec), told_by_no_score(self.spec)
        others = reference[[0] * len(fields)] if len(reference) == 1 else reference
        to_normal, from_normal = self._normal(fields, loose), symmetry.inverse(self._normal(reference, loose))
        near = self.units(symmetry.act(symmetry.inverse(from_normal), reference))
        far = self.units(symmetry.act(to_normal, fields))
        if len(reference) == 1:
            near = [z.expand(len(fields), -1, -1) for z in near]
            from_normal = symmetry.inverse(self._normal(others, loose))
        found = scores(far, near)
        moves = from_scores([x.abs() if odd else x for x in found], [x if odd else None for x in found])
        element = symmetry.compose(from_normal, symmetry.compose(moves, to_normal))
        element = settle(element, fields, others, loose)
        if rounds == 0 or len(fields) == 0:
            return element
        matched = align(symmetry.act(element, fields), others, None, rounds, ("identity",))
        return symmetry.compose(matched, element)

    def aligned(self, fields: FieldBatch, reference: FieldBatch, rounds: int = 0) -> FieldBatch:
        """The fields brought to the reference: act(element(fields, reference, rounds), fields)."""
        return symmetry.act(self.element(fields, reference, rounds), fields)

    def _normal(self, fields: FieldBatch, kinds: tuple[str, ...]) -> Element:
        """The normal form of fields, checked before."""
        check_spec(fields.spec, self.spec)
        check_finite(fields, np.arange(len(fields)))
        return normal_form(fields, kinds)

    @torch.no_grad()
    def units(self, fields: FieldBatch) -> list[Tensor]:
        """Vectors of all hidden units, of length 1: (N, H, D) per hidden layer, on the CPU."""
        parameter, pieces = next(self.model.parameters()), []
        for at in range(0, len(fields), self.at_once):
            part = fields[at : at + self.at_once].to(parameter.device, parameter.dtype)
            pieces.append([z.cpu() for z in self.model.eval()(weight_features(part))])
        if not pieces:
            dim = self.settings.dim if isinstance(self.settings, DeepAlignConfig) else 0
            return [torch.zeros(0, width, dim, dtype=parameter.dtype) for width in self.spec.hidden]
        return [torch.cat(layer) for layer in zip(*pieces, strict=True)]
