"""Attention over a cache, against the sums spelled out token by token."""

import torch
from torch import Tensor

from ddl_model.attention_op import cached_attention
from ddl_model.token_stream import DecodeCache

ROWS, HEADS, WIDTH, SLOTS = 2, 3, 4, 8


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_token_sees_the_slots_up_to_its_own() -> None:
    lengths, tokens = torch.tensor([0, 4]), 3
    query, key, value = (random(ROWS, tokens, HEADS, WIDTH, seed=seed) for seed in (1, 2, 3))
    keys, values = (random(ROWS, HEADS, SLOTS, WIDTH, seed=seed) for seed in (4, 5))
    before = keys.clone()
    heads, new_keys, new_values = cached_attention(
        query, key, value, keys, values, lengths.unsqueeze(-1) + torch.arange(tokens)
    )
    assert torch.equal(keys, before)
    for row in range(ROWS):
        first = int(lengths[row])
        for head in range(HEADS):
            all_keys = torch.cat([keys[row, head, :first], key[row, :, head], keys[row, head, first + tokens :]])
            all_values = torch.cat(
                [values[row, head, :first], value[row, :, head], values[row, head, first + tokens :]]
            )
            assert torch.equal(new_keys[row, head], all_keys)
            assert torch.equal(new_values[row, head], all_values)
            for token in range(tokens):
                seen = first + token + 1
                weights = (all_keys[:seen] @ query[row, token, head] / WIDTH**0.5).softmax(0)
                torch.testing.assert_close(heads[row, token, head], weights @ all_values[:seen])


def test_selected_rows_keep_their_slots() -> None:
    keys = {"0.attn": random(ROWS, HEADS, SLOTS, WIDTH, seed=1)}
    cache = DecodeCache(torch.tensor([1, 2]), keys, keys, {}, fixed_slots=True).select(torch.tensor([1, 1, 0]))
    assert cache.fixed_slots
    assert cache.lengths.tolist() == [2, 2, 1]
    assert torch.equal(cache.keys["0.attn"][0], keys["0.attn"][1])
