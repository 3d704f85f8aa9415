"""Evaluations on 1, 2, 3 and 4 processes have the same figures to the last bit: nothing twice, nothing left out."""

import pytest
import torch
from omegaconf import OmegaConf
from process_groups import results_of
from test_processes import COMMON, SMALL_HEADS, SMALL_TEXT

from meru import distributed, sharing
from meru.assemble import build
from meru.data.loading import ordered_loader
from meru.evaluation.suite import Subject
from meru.evaluation.suites import SUITES
from meru.metrics.clustering import estimate_num_classes
from meru.tasks.data import load_for_suite
from meru.tasks.kinds import task_of

CPU = torch.device("cpu")


def built(config):
    task = task_of(config)(config, device=CPU)
    config = task.complete_config()
    torch.manual_seed(distributed.rank())
    pretrained = build(config)
    distributed.broadcast_weights(pretrained.model)
    pretrained.model.eval()
    return task, pretrained


def figures_of(rank, image_text, discovery, suites):
    """All figures of both tasks, of suites, and the neighbours of an epoch."""
    found = {}
    for name, config in (("image_text", image_text), ("discovery", discovery)):
        task, pretrained = built(config)
        if name == "discovery":
            batches = iter(
                task.batches(
                    pretrained,
                    OmegaConf.create({"batch_size": 3, "batches_per_epoch": 4, "world_size": distributed.world_size()}),
                    0,
                )
            )
            next(batches)
            found["neighbours"] = task.epoch_state["neighbours"]
        with sharing.together():
            found[name] = task.evaluate(pretrained).figures
        for suite, settings in suites.items() if name == "image_text" else ():
            data = load_for_suite(config, SUITES[suite].needs, suite=suite)
            with sharing.together():
                found[suite] = SUITES[suite].evaluate(Subject(pretrained, data, config.data, settings, CPU))
    return found


@pytest.fixture(scope="module")
def everyone(compose, tmp_path_factory):
    """The figures by number of processes, and by rank. Of 18 images, 17 decode, and batches hold 5, 5, 5 and 2."""
    from conftest import write_cub_folder

    root = write_cub_folder(tmp_path_factory.mktemp("shared") / "CUB_200_2011", test=6, train=4)
    broken = sorted(root.glob("images/*/*.jpg"))
    broken[5].write_bytes(b"not an image")  # of the test split: it is left out
    both = [*COMMON, f"data.root={root}", "data.on_error=skip", "evaluation.batch_size=5"]
    cub = ["data.load._target_=meru.data.datasets.cub.load_cub", "data.validation_fraction=0"]
    image_text = compose("experiment=birds_meru_patches", "data=cub", *both, *SMALL_TEXT, *cub)
    heads = [*SMALL_HEADS, "discovery.sampler=neighbours", "discovery.neighbours=3"]
    discovery = compose("experiment=cub_hypgcd", *both, *heads)
    settings = {"split": None, "batch_size": 5, "captions_per_image": 2, "templates": None, "probe_features": "tower"}
    suites = dict.fromkeys(("linear_probe", "retrieval"), settings)
    arguments = image_text, discovery, suites
    return {number: results_of(figures_of, *arguments, processes=number) for number in (1, 2, 3, 4)}


def test_figures_do_not_depend_on_the_number_of_processes(everyone):
    (alone,) = everyone[1]
    assert alone["image_text"]["text_to_image/image/queries"] == 170
    assert {"image_text", "discovery", "linear_probe", "retrieval"} < set(alone)
    for processes in (2, 3, 4):
        main = everyone[processes][0]
        for name in ("image_text", "discovery", "linear_probe", "retrieval"):
            assert main[name] == alone[name], (processes, name)


def test_the_main_process_has_the_figures_and_all_have_the_neighbours(everyone):
    for processes in (2, 3, 4):
        for rank, found in enumerate(everyone[processes]):
            assert torch.equal(found["neighbours"], everyone[1][0]["neighbours"])
            assert bool(found["image_text"]) == bool(found["discovery"]) == (rank == 0)


class Seen:
    """Notes which images are read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read.append(index)
        return self.images[index]


def shares(rank, counts):
    """For every number of images: those that this rank has read, and all rows in `together` and outside it."""
    found = []
    for count in counts:
        images = Seen(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4))
        loader = ordered_loader(images, {}, transform=torch.nn.Identity(), batch_size=3, workers=0)

        def rows(batch):
            if 4 in batch["image_index"]:
                return None  # none of this batch decodes
            flags = batch["image_index"] % 2 == 0
            return {"index": batch["image_index"], "pixel": batch["image"][:, :, 0, 0].half(), "even": flags}

        with sharing.together():
            together = sharing.rows_of(loader, rows, device=CPU)
            numbers = sharing.results_of(range(count), lambda number: number**2)
        read = list(images.read)
        alone = sharing.rows_of(loader, rows, device=CPU) if rank == distributed.world_size() - 1 else {}
        found.append({"read": read, "together": together, "numbers": numbers, "alone": alone})
    return found


COUNTS = [1, 3, 5, 10, 13]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_image_is_read_by_one_process_and_every_row_arrives_in_order(processes):
    ranks = results_of(shares, COUNTS, processes=processes)
    for place, count in enumerate(COUNTS):
        of_ranks = [rank[place] for rank in ranks]
        assert sorted(index for rank in of_ranks for index in rank["read"]) == list(range(count))
        kept = [index for index in range(count) if index // 3 != 1 or count <= 4]
        for rows in [*(rank["together"] for rank in of_ranks), of_ranks[-1]["alone"]]:
            assert rows["index"].tolist() == kept
            assert rows["even"].dtype == torch.bool and rows["even"].tolist() == [index % 2 == 0 for index in kept]
            assert rows["pixel"].dtype == torch.float16 and rows["pixel"][:, 2].tolist() == kept
        assert all(rank["numbers"] == [number**2 for number in range(count)] for rank in of_ranks)


def without_rows(rank):
    with sharing.together():
        return sharing.rows_of([1, 2, 3], lambda batch: None, device=CPU)


def test_without_any_row_there_are_no_names():
    assert results_of(without_rows) == [{}, {}]


def estimate(rank):
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(7, 6, generator=generator)
    labels = torch.arange(140) % 7
    features = centres[labels] + torch.randn(140, 6, generator=generator)
    with sharing.together():
        return estimate_num_classes(features, labels, labels < 4, 4, maximum=12)


def test_processes_that_share_the_runs_of_kmeans_estimate_the_same_number():
    expected = estimate(0)
    assert results_of(estimate, processes=3) == [expected] * 3
