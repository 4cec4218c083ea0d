"""The decoder against plain references, and what must hold of any causal model of packed rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lightmill.models.architectures import build_module, parameter_count, seeded
from lightmill.models.decoder import Attention, Decoder, DecoderSizes, attention_mask, rotary_table, rotate
from lightmill.records.signature import Architecture

VOCABULARY, CONTEXT = 11, 12


def sizes(heads: int = 4, kv_heads: int = 2, width: int = 16) -> DecoderSizes:
    return DecoderSizes(
        vocabulary=VOCABULARY,
        context=CONTEXT,
        width=width,
        layers=2,
        heads=heads,
        kv_heads=kv_heads,
        feed_forward=24,
        theta=10_000.0,
        epsilon=1e-5,
        tied=True,
    )


def decoder(seed: int = 0, **arguments: object) -> Decoder:
    given_arguments = {
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "width": 16,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
    }
    module = seeded(seed, Architecture(name="decoder", arguments={**given_arguments, **arguments}))
    assert isinstance(module, Decoder)
    with torch.no_grad():  # larger weights than training begins with, so that mistakes are larger than rounding
        for weight in module.parameters():
            weight.mul_(8)
    return module.eval()


def test_rotation_is_multiplication_by_unit_complex_numbers() -> None:
    size, length, theta = 8, 9, 100.0
    values = torch.randn(2, 3, length, size, dtype=torch.float64)
    cosine, sine = rotary_table(length, size, theta)
    found = rotate(values, cosine.double(), sine.double())
    for position in range(length):
        for pair in range(size // 2):
            angle = position * theta ** (-2 * pair / size)
            plain = torch.complex(values[:, :, position, pair], values[:, :, position, pair + size // 2])
            turned = plain * complex(math.cos(angle), math.sin(angle))
            other = torch.complex(found[:, :, position, pair], found[:, :, position, pair + size // 2])
            torch.testing.assert_close(other, turned, rtol=0, atol=1e-6)


def test_products_of_rotated_vectors_depend_on_the_distance_alone() -> None:
    cosine, sine = rotary_table(20, 8, 10_000.0)
    query, key = torch.randn(8), torch.randn(8)

    def product(at: int, other: int) -> float:
        left, right = (rotate(v[None], cosine[n], sine[n]) for v, n in ((query, at), (key, other)))
        return float((left * right).sum())

    assert product(3, 1) == pytest.approx(product(17, 15), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)


def plain_attention(module: Attention, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention head by head, by the formula; `mask` is bool [length, length]."""
    length, group = values.shape[1], module.heads // module.kv_heads
    cosine, sine = rotary_table(length, module.size, 10_000.0)
    query, key, value = (
        part(values)[0].view(length, -1, module.size) for part in (module.query, module.key, module.value)
    )
    heads = []
    for head in range(module.heads):
        left = rotate(query[:, head], cosine, sine)
        right = rotate(key[:, head // group], cosine, sine)
        scores = (left @ right.T / math.sqrt(module.size)).masked_fill(~mask, -math.inf)
        heads.append(torch.softmax(scores, dim=1) @ value[:, head // group])
    return module.out(torch.cat(heads, dim=1))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_is_the_formula(heads: int, kv_heads: int, packed: bool) -> None:
    torch.manual_seed(1)
    module = Attention(sizes(heads, kv_heads))
    values = torch.randn(1, 7, 16)
    segments = torch.tensor([[1, 1, 1, 2, 2, 0, 0]])
    mask = attention_mask(segments) if packed else None
    found = module(values, rotary_table(7, module.size, 10_000.0), mask)
    plain = torch.ones(7, 7, dtype=torch.bool).tril() if mask is None else mask[0, 0]
    torch.testing.assert_close(found[0], plain_attention(module, values, plain), rtol=1e-5, atol=1e-6)


def test_the_whole_is_norms_attention_and_gates_by_the_formula() -> None:
    module = decoder()
    tokens = torch.randint(0, VOCABULARY, (1, 6))

    def normalized(values: torch.Tensor, norm: nn.RMSNorm) -> torch.Tensor:
        return values / (values.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight

    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    values = module.embedding.weight[tokens[0]]
    for block in module.blocks:
        values = values + plain_attention(block.attention, normalized(values, block.attention_norm)[None], mask)
        inner = normalized(values, block.feed_forward_norm)
        forward = block.feed_forward
        gate = inner @ forward.gate.weight.T
        values = values + (gate * torch.sigmoid(gate) * (inner @ forward.up.weight.T)) @ forward.down.weight.T
    expected = normalized(values, module.norm) @ module.embedding.weight.T
    torch.testing.assert_close(module(tokens)[0], expected, rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 99), place=st.integers(1, CONTEXT - 1), packed=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_later_token_never_changes_an_earlier_logit(seed: int, place: int, packed: bool) -> None:
    module = decoder(seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (2, CONTEXT), generator=generator)
    segments = torch.randint(1, 3, (2, CONTEXT), generator=generator).sort(dim=1).values if packed else None
    other = tokens.clone()
    other[:, place:] = (other[:, place:] + 1) % VOCABULARY
    with torch.inference_mode():
        before, after = module(tokens, segments), module(other, segments)
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, place:], after[:, place:], atol=1e-3)
    with torch.inference_mode():  # and a shorter row gives what the beginning of a longer one gives
        torch.testing.assert_close(module(tokens[:, :place]), module(tokens)[:, :place], rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_packed_documents_get_the_logits_that_each_gets_alone(seed: int, lengths: list[int]) -> None:
    lengths = lengths[: max(1, sum(1 for n in range(len(lengths)) if sum(lengths[: n + 1]) <= CONTEXT))]
    module = decoder(seed)
    tokens = torch.randint(0, VOCABULARY, (1, CONTEXT), generator=torch.Generator().manual_seed(seed))
    numbers = [number + 1 for number, length in enumerate(lengths) for _ in range(length)]
    segments = torch.tensor([numbers + [0] * (CONTEXT - len(numbers))])
    with torch.inference_mode():
        whole = module(tokens, segments)
        start = 0
        for length in lengths:
            alone = module(tokens[:, start : start + length])
            torch.testing.assert_close(whole[:, start : start + length], alone, rtol=1e-4, atol=1e-4)
            start += length
    assert whole.isfinite().all()


def test_sizes_and_ties() -> None:
    tied, own = decoder(), decoder(tied=False)
    assert parameter_count(own) - parameter_count(tied) == VOCABULARY * 16
    assert set(tied.state_dict()) & {"cosine", "sine", "head.weight"} == set()
    default = build_module(Architecture(name="decoder", arguments={"vocabulary": 50, "context": 8, "layers": 1}))
    assert isinstance(default, Decoder)
    assert (default.sizes.kv_heads, default.sizes.feed_forward) == (4, 704)
    with pytest.raises(ValueError, match="13 tokens are more than the context of 12"):
        tied(torch.zeros(1, 13, dtype=torch.int64))


def test_training_learns_a_pattern() -> None:
    torch.manual_seed(0)
    module = seeded(
        0, Architecture(name="decoder", arguments={"vocabulary": 5, "context": 8, "width": 16, "layers": 1})
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
    tokens = (torch.arange(8)[None] + torch.arange(5)[:, None]) % 5
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(tokens)[:, :-1].reshape(-1, 5), tokens[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
