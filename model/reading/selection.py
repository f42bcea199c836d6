"""Which blocks a question is about: late interaction between its tokens and the tokens of every block.

    B  blocks     n  tokens of a block     T  tokens of the question     D  width     E  size of a key

For each token of the question the best match among a block's tokens, weighted by how much the token says, summed (ColBERT's MaxSim,
Khattab and Zaharia 2020). A match elsewhere in the block's document counts too, at a distance: what a document is about is named in its
beginning, what is asked of it stands further down. A null candidate competes with the blocks: for each token the match that a block
which is really about it would reach. A block that stays below it has not told what is asked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def in_context(self, matches_TB: Tensor, documents_B: Tensor) -> Tensor:
        """What the tokens match in each block or, at a distance, in its document: [T, B].

        Args:
            matches_TB: the best match of each of the question's tokens in each block.
            documents_B: which document a block is of, numbered from 0.
        """
        owner = documents_B.expand_as(matches_TB)
        best = matches_TB.new_full((len(matches_TB), int(documents_B.max()) + 1), -torch.inf)
        best = best.scatter_reduce(1, owner, matches_TB, "amax")
        nearest: Tensor = torch.maximum(matches_TB, best.gather(1, owner) - functional.softplus(self.distance))
        return nearest


def _rms(states: Tensor) -> Tensor:
    states = states.float()
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)
