"""Which blocks a question is about: late interaction between its tokens and the tokens of every block.

    B  blocks     n  tokens of a block     T  tokens of the question     D  width     E  size of a key

For each token of the question the best match among a block's tokens, weighted by how much the token says, summed (ColBERT's MaxSim,
Khattab and Zaharia 2020). A match elsewhere in the block's document counts too, at a distance: what a document is about is named in its
beginning, what is asked of it stands further down.

Two things compete with the best block. The null candidate: for each token the match that a block which is really about it would reach.
And the memory's other documents: a question about what was never read matches several of them about equally, and none stands out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Number = TypeVar("Number", float, Tensor)

RIVALS = 8
"""Documents that the best block's own is compared with."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Which document each block is of, [B], numbered from 0 to `count`."""

    owners_B: Tensor
    count: int

    def best(self, values_RB: Tensor) -> Tensor:
        """The greatest value of each document's blocks, [R, count]; minus infinity where a document has none."""
        greatest = values_RB.new_full((len(values_RB), self.count), -torch.inf)
        return greatest.scatter_reduce(1, self.owners_B.expand_as(values_RB), values_RB, "amax")


def lead(best: Number, null: Number, excess: Number) -> Number:
    """Nats by which a block of this score stands out (`Selector.competing`): what it is above the null candidate, less half of what other
    documents exceed their usual by. Ten documents that tell the same take something from each other, never all."""
    return best - null - excess / 2


class Selector(nn.Module):
    """Keys of blocks, queries of questions, and their scores. Trained by `model.training.selector`."""

    def __init__(self, width: int, key_size: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(key_size, width))
        self.key = nn.Parameter(torch.zeros(key_size, width))
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.weight_bias = nn.Parameter(torch.zeros(1))
        self.null = nn.Parameter(torch.zeros(1, width))
        self.null_bias = nn.Parameter(torch.zeros(1))
        self.log_temperature = nn.Parameter(torch.zeros(1))
        self.margin = nn.Parameter(torch.zeros(1))
        self.distance = nn.Parameter(torch.zeros(1))
        self.elsewhere = nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Random projections and an even weight: where training begins."""
        width = self.query.shape[1]
        self.query.normal_(0, width**-0.5, generator=generator)
        self.key.copy_(self.query)
        self.weight.zero_()
        self.weight_bias.fill_(0.5)
        self.null.zero_()
        self.null_bias.fill_(0.5)
        self.log_temperature.fill_(1.5)
        self.margin.zero_()
        self.distance.fill_(-2.2)
        self.elsewhere.fill_(-10.0)

    def keys(self, states_nD: Tensor) -> Tensor:
        """Unit keys [..., n, E] of a block's tokens, from the states before the reading layer."""
        return functional.normalize(functional.linear(_rms(states_nD), self.key.float()), dim=-1)

    def queries(self, states_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit queries [..., T, E], weights [..., T] above 0, and the match [..., T] that the null candidate has."""
        states = _rms(states_TD)
        unit = functional.normalize(functional.linear(states, self.query.float()), dim=-1)
        weights = functional.softplus(functional.linear(states, self.weight.float(), self.weight_bias.float()))[..., 0]
        null = torch.tanh(functional.linear(states, self.null.float(), self.null_bias.float()))[..., 0]
        return unit, weights * self.log_temperature.exp(), null

    def in_context(self, matches_TB: Tensor, documents: Documents) -> Tensor:
        """What the tokens match in each block or, at a distance, in its document: [T, B].

        Args:
            matches_TB: the best match of each of the question's tokens in each block.
        """
        best = documents.best(matches_TB).gather(1, documents.owners_B.expand_as(matches_TB))
        nearest: Tensor = torch.maximum(matches_TB, best - functional.softplus(self.distance))
        return nearest

    def competing(self, total_QB: Tensor, nothing_Q: Tensor, documents: Documents) -> tuple[Tensor, Tensor]:
        """What the best block must beat, both [Q]: the null candidate's score, and by how much other documents exceed what they usually
        reach, which is `elsewhere` from the null candidate.

        That is the mean over the RIVALS best documents but the best block's own; one that is not there is at its usual.

        Args:
            total_QB: scores of blocks; minus infinity where one must not be read.
            nothing_Q: what the question's tokens give the null candidate.
        """
        best = documents.best(total_QB)
        best = best.scatter(1, documents.owners_B[total_QB.argmax(-1, keepdim=True)], -torch.inf)
        found = functional.pad(best, (0, RIVALS), value=-torch.inf).topk(RIVALS, dim=-1).values
        usual_Q = nothing_Q + self.elsewhere
        excess = torch.where(found.isfinite(), found - usual_Q[:, None], 0).mean(-1)
        return nothing_Q + self.margin, excess


def _rms(states: Tensor) -> Tensor:
    states = states.float()
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)
