"""Two processes are one: the same loss and the same gradients, over gloo."""

import pytest
import torch
from every_term import EVERY_TERM
from process_groups import results_of
from torch.nn.parallel import DistributedDataParallel

from meru import distributed
from meru.encoders.image import timm_image_encoder
from meru.encoders.text import text_transformer
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP
from meru.models.meru import MERU
from meru.models.meru_patches import MERUPatches
from meru.models.uncha import UNCHA

WORLD, BATCH = 2, 6


SIGMOID = {"kind": "sigmoid", "bias": -3.0}
ARGENT = {"kind": "argent"}
CASES = [
    (CLIP, "pair"),
    (CLIP, "class", SIGMOID),
    (MERU, "class"),
    (HyCoCLIP, "class"),
    (HyCoCLIP, "class", SIGMOID, ARGENT),
    (MERUPatches, "image"),
    (GAHR, "class"),
    (UNCHA, "class"),
]


def build(kind, positives, contrastive=None, entailment=None):
    torch.manual_seed(0)
    return kind(
        image=timm_image_encoder(
            name="vit_tiny_patch16_224",
            image_size=32,
            arguments={"patch_size": 16, "embed_dim": 64, "depth": 1, "num_heads": 4},
        ),
        text=text_transformer(architecture="L1_W16_A4", context_length=8),
        embedding_dimension=16,
        loss=EVERY_TERM
        | {
            "contrastive": {"weight": 1.0, "positives": positives, **(contrastive or {})},
            "entailment": {**EVERY_TERM["entailment"], **(entailment or {})},
            "norm": {"weight": 0.1},
        },
    )


def whole_batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 1000, (BATCH, 8), generator=generator)
    tokens[torch.arange(BATCH), torch.tensor([7, 3, 5, 2, 6, 4])] = 49407  # captions of different lengths
    return {
        "image": torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "tokens": tokens,
        "image_index": torch.tensor([0, 1, 2, 0, 4, 5]),
        "class_index": torch.tensor([0, 1, 1, 0, 1, 2]),
        # Parts, and words for them, fall unevenly to the two halves: 1 and 3, then 0 and 2.
        "part_image": torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "part_tokens": tokens.flip(0),
        "has_part": torch.tensor([True, False, False, True, True, True]),
        "has_part_text": torch.tensor([False, True, False, True, False, True]),
        # Queries too: 3 and 1.
        "query_tokens": tokens[:, None].repeat(1, 2, 1).flip(0),
        "query_weight": torch.tensor([[1.0, 0.5], [0.75, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]),
        "query_parent": torch.tensor([[-1, 0], [-1, -1], [-1, -1], [-1, -1], [-1, -1], [-1, -1]]),
    }


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(rank, *arguments):
    share = BATCH // WORLD
    batch = {name: value[rank * share :][:share] for name, value in whole_batch().items()}
    model = build(*arguments)
    parallel = DistributedDataParallel(model)  # must outlive the backward pass
    output = parallel(batch)
    output.loss.backward()
    return output.loss.detach(), gradients(model)


def every_step(rank):
    return [one_step(rank, *arguments) for arguments in CASES]


@pytest.fixture(scope="module")
def steps_of_two():
    """Loss and gradients of every case in each of two processes, which are started once."""
    return results_of(every_step)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_give_the_loss_and_gradients_of_one(case, steps_of_two):
    model = build(*CASES[case])
    expected = model(whole_batch())
    expected.loss.backward()
    (first_loss, first), (second_loss, second) = (steps[case] for steps in steps_of_two)
    torch.testing.assert_close((first_loss + second_loss) / 2, expected.loss.detach())
    for name, gradient in gradients(model).items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], gradient, atol=3e-5, rtol=1e-3, msg=lambda text, name=name: name + text)


def small_things(rank):
    x = torch.full((2,), float(rank), requires_grad=True)
    gathered = distributed.gather(x)
    (gathered * torch.arange(4.0) * (rank + 1)).sum().backward()
    return {
        "rank": (distributed.rank(), distributed.world_size(), distributed.is_main()),
        "gathered": gathered.tolist(),
        "gradient": x.grad.tolist(),
        "broadcast": distributed.broadcast(f"from {rank}"),
        "collect": distributed.collect(10 + rank),
    }


def test_gather_broadcast_and_collect():
    first, second = results_of(small_things)
    assert first["rank"] == (0, 2, True) and second["rank"] == (1, 2, False)
    assert first["gathered"] == second["gathered"] == [0, 0, 1, 1]
    # each process's loss weighs row j by j·(rank + 1); the gradients add up over the processes
    assert first["gradient"] == [0, 3] and second["gradient"] == [6, 9]
    assert first["broadcast"] == second["broadcast"] == "from 0"
    assert first["collect"] == second["collect"] == [10, 11]


def test_one_process_needs_no_group():
    x = torch.ones(2)
    assert distributed.gather(x) is x
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.broadcast("a") == "a" and distributed.collect("a") == ["a"]
    distributed.wait_for_all()
    distributed.wait_for_main()
