"""The text tower against an unpacked, unpruned reference, and the tokenizer."""

import pytest
import torch
from torch.nn import functional as F

from meru.encoders.text import CaptionTokenizer, TextTransformer, text_transformer
from meru.errors import UserError

CAPTIONS = ["a bird", "this bird has a long black beak, red wings and a white belly", "red"]


def reference(network, tokens):
    """One caption `(L,)` through the tower as CLIP's paper draws it: causal attention over the whole sentence."""
    x = network.token_embed(tokens) + network.posit_embed[: len(tokens)]
    for block in network.resblocks:
        normed = block.ln_1(x)[None]
        mask = network.attn_mask[: len(tokens), : len(tokens)]
        x = x + block.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0][0]
        hidden = F.gelu(F.linear(block.ln_2(x), block.mlp.c_fc.weight, block.mlp.c_fc.bias))
        x = x + F.linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias)
    return network.ln_final(x)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return text_transformer(architecture="L3_W64_A4", context_length=32)


def test_packed_and_pruned_tower_equals_the_reference(encoder):
    tokens = encoder.tokenizer.batch(CAPTIONS)
    pooled, features = encoder.network.forward_tokens(tokens)
    for row, caption in enumerate(CAPTIONS):
        alone = encoder.tokenizer(caption)
        expected = reference(encoder.network, alone)
        torch.testing.assert_close(features[row, : len(alone)], expected, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(pooled[row], expected[-1], atol=2e-6, rtol=1e-5)
        assert not features[row, len(alone) :].any()
    torch.testing.assert_close(encoder.network(tokens), pooled, atol=2e-6, rtol=1e-5)


def test_gradients_equal_those_of_the_reference(encoder):
    tokens = encoder.tokenizer.batch(CAPTIONS)
    weight = torch.randn(len(CAPTIONS), 64)
    parameters = list(encoder.network.parameters())
    ours = torch.autograd.grad((encoder.network(tokens) * weight).sum(), parameters)
    alone = [reference(encoder.network, encoder.tokenizer(caption))[-1] for caption in CAPTIONS]
    expected = torch.autograd.grad((torch.stack(alone) * weight).sum(), parameters)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_content_of_padding_changes_nothing(encoder):
    tokens = encoder.tokenizer.batch(CAPTIONS)
    padded = F.pad(tokens, (0, 5))
    padded[padded == 0] = 7  # any id below end-of-text
    torch.testing.assert_close(encoder.network(padded), encoder.network(tokens), atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_changes_no_figure():
    torch.manual_seed(0)
    plain = TextTransformer(architecture="L3_W64", vocabulary_size=50, context_length=9)
    thrifty = TextTransformer(architecture="L3_W64", vocabulary_size=50, context_length=9, gradient_checkpointing=True)
    thrifty.load_state_dict(plain.state_dict())
    tokens = torch.tensor([[48, 3, 49, 0], [48, 5, 6, 49]])
    for network in (plain, thrifty):
        network(tokens).square().sum().backward()
    torch.testing.assert_close(plain.posit_embed.grad, thrifty.posit_embed.grad)


def test_dropout_is_of_the_attention_weights_in_training_alone(encoder):
    """Without MLP and norm the tower is linear in the weights, so that their mean over many draws shows."""
    dropping = TextTransformer(architecture="L3_W64_A4", context_length=32, dropout=0.5)
    dropping.load_state_dict(encoder.network.state_dict())
    tokens = encoder.tokenizer.batch(CAPTIONS)
    for name in ("forward", "forward_tokens"):
        plain, evaluated = (getattr(network, name)(tokens) for network in (encoder.network, dropping.eval()))
        pairs = zip(plain, evaluated, strict=True) if name == "forward_tokens" else [(plain, evaluated)]
        assert all(torch.equal(one, other) for one, other in pairs)

    torch.manual_seed(0)
    linear = TextTransformer(architecture="L1_W64_A4", context_length=32, dropout=0.5)
    linear.ln_final = torch.nn.Identity()
    torch.nn.init.zeros_(linear.resblocks[0].mlp.c_proj.weight)
    torch.nn.init.normal_(linear.resblocks[0].attn.out_proj.weight)
    repeated = tokens.repeat(1000, 1)
    with torch.no_grad():
        for features in (linear, lambda tokens: linear.forward_tokens(tokens)[1]):
            linear.eval()
            expected = features(tokens)
            linear.train()
            drawn = features(repeated).unflatten(0, (1000, len(CAPTIONS)))
            spread = drawn.std(dim=0)
            assert spread.flatten(1).max(dim=1).values.min() > 0.1
            error = (drawn.mean(dim=0) - expected).abs()
            assert (error <= 5 * spread / 1000**0.5 + 1e-5).all()


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_is_a_share(dropout):
    with pytest.raises(UserError, match=f"encoder.text.dropout={dropout}"):
        text_transformer(architecture="L1_W64", dropout=dropout)


def test_parameter_names_are_those_of_published_checkpoints(encoder):
    names = set(encoder.network.state_dict())
    block = {"ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
             "attn.out_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
             "mlp.c_proj.weight", "mlp.c_proj.bias"}  # fmt: skip
    expected = {"token_embed.weight", "posit_embed", "attn_mask", "ln_final.weight", "ln_final.bias"}
    assert names == expected | {f"resblocks.{i}.{name}" for i in range(3) for name in block}


def test_a_long_caption_is_cut_behind_a_whole_word_and_keeps_its_end():
    caption = "a bird with extraordinarily iridescent supercalifragilistic plumage"
    whole = CaptionTokenizer()(caption).tolist()
    vocabulary = CaptionTokenizer()._vocabulary
    for length in range(4, len(whole) + 2):
        cut = CaptionTokenizer(context_length=length)(caption).tolist()
        assert len(cut) <= length
        assert cut[-1] == whole[-1]
        assert cut[:-1] == whole[: len(cut) - 1]
        assert caption.startswith(vocabulary.decode(cut[1:-1]).strip())
        assert caption[len(vocabulary.decode(cut[1:-1]).strip()) :][:1] in ("", " ")


@pytest.mark.parametrize("architecture", ["W64", "L0_W64", "L2_W65_A2", "L2_W128_A0", "L1_W100", "large"])
def test_unreadable_architecture_is_one_clear_line(architecture):
    with pytest.raises(UserError, match="architecture"):
        TextTransformer(architecture=architecture)


def test_words_of_any_script_are_shown_as_they_are_written():
    tokenizer = CaptionTokenizer(context_length=20)
    assert [word for word, _ in tokenizer.words(tokenizer("红色的鸟 Café"))] == ["红色的鸟", "café"]
