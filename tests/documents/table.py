"""How the commands of the documents are tried: the one table, `ROWS`, and what it needs.

A command in a document that no row covers fails the tests. A new command needs a row, unless it only gives other values
of keys: the last rows cover those of `bash train_cub.sh`, `python scripts/train.py` and the like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

QUICK = ("trainer.epochs=1", "data.batch_size=8", "data.workers=0", "encoder.text.architecture=L1_W16_A2")
PLAIN = ("logger=none", "evaluation.attention_pictures=1")  # saves three seconds a run, and ten
FEW_BIRDS = ("+data.load.images_per_species=4", "data.root={birds}")
PERSONS = (
    *QUICK, "data.batch_size=4", "+data.load.identities=13", "+data.load.images_per_identity=1",
    "encoder.image.image_size=32", "data.root={persons}", *PLAIN,
)  # fmt: skip
DISCOVERY = (
    "+data.load_discovery.images_per_species=4", "trainer.epochs=1", "data.batch_size=8", "data.workers=0",
    "model.projection_width=16", "data.root={birds}", "logger=none",
)  # fmt: skip
SMALL_TOWERS = ("encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2")


@dataclass(frozen=True)
class Row:
    """How the commands of one form are tried.

    In `add` and `change`, {run} is a finished tiny run, {index} an index of its images, {birds}, {cub} and {persons}
    are tiny data sets, {picture} is an image, {queries} a file of sentences, and {here} is an empty folder, where the
    command is run.

    Attributes:
        form: A regular expression that fits the whole command.
        add: Words put behind it, to make it small.
        change: Regular expressions and what to put in their place, before that.
        says: What it prints.
        makes: A pattern of files that it leaves in {here}.
        exit_code: What it ends with.
        done: The fixture `run` has run it already.
        composed: Not run, since it takes minutes or hours: the configuration that it would train with is composed and
            checked, with these overrides first. None: it is run.
    """

    form: str
    add: tuple[str, ...] = ()
    change: tuple[tuple[str, str], ...] = ()
    says: str = ""
    makes: str = ""
    exit_code: int = 0
    done: bool = False
    composed: tuple[str, ...] | None = None


FIRST_COMMAND = "bash train_cub.sh meru data=birds"

# The first row that fits counts.
ROWS = (
    # Several processes
    Row(
        r"python scripts/torchrun\.py --standalone --nproc-per-node=2 scripts/evaluate\.py run=<run folder> split=.+",
        change=((r"scripts/torchrun\.py .+ (scripts/evaluate\.py)", r"\1"),),  # tests/evaluation/test_shared_evaluation
        says="text",
    ),
    Row(
        r"python scripts/train\.py -m hydra/launcher=slurm .+",
        change=((r"hydra/launcher=slurm hydra\.launcher\.partition=gpu ", ""), ("0,1,2", "0")),
        add=(*SMALL_TOWERS, *QUICK, *PLAIN, *FEW_BIRDS, "output={here}"),
        makes="*/*/test.json",
    ),
    # Runs
    Row(re.escape(FIRST_COMMAND), done=True),
    Row(
        r"bash (train_cub\.sh (clip|meru)|train_patches_cub\.sh)",
        add=(*SMALL_TOWERS, *QUICK, *PLAIN, "data.root={cub}", "folder={here}/run"),
        makes="run/test.json",
    ),
    Row(
        r"bash train_cub\.sh clip data=birds seed=0,1,2 -m",
        change=(("0,1,2", "0"),),
        add=(*SMALL_TOWERS, *QUICK, *PLAIN, *FEW_BIRDS, "output={here}"),
        makes="birds_clip/*/test.json",
    ),
    Row(
        r"python scripts/train\.py experiment=birds_hypgcd",
        add=(*DISCOVERY, "folder={here}/run"),
        makes="run/test.json",
    ),
    Row(
        r"python scripts/train\.py experiment=pedestrians_gahr",
        add=(*PERSONS, "folder={here}/run"),
        makes="run/test.json",
    ),
    # What follows a run
    Row(
        r"python scripts/evaluate\.py run=<run folder> suite=robustness",
        add=("workers=0", "severities=[5]", "output={here}/robustness.json"),
        says="occlusion",
        makes="robustness.png",
    ),
    Row(
        r'python scripts/evaluate\.py run=<run folder> suite=robustness "corruptions=.*',
        add=("workers=0", "output={here}/robustness.json"),
        says="first 25% of words",
        makes="robustness.png",
    ),
    Row(r"python scripts/evaluate\.py run=<run folder> split=\w+", add=("workers=0",), says="zero-shot"),
    Row(
        r"python scripts/diagnose\.py run=<run folder>",
        add=("workers=0",),
        says="What stands out:",
    ),
    Row(
        r"python scripts/visualize\.py attention .*",
        change=(("<file>", "{picture}"),),
        makes="attention.png",
    ),
    Row(
        r"python scripts/visualize\.py neighbours run=<run folder> hide_heads=blur",
        add=("output={here}/neighbours.png", "count=8"),
        makes="neighbours.png",
    ),
    Row(
        r"python scripts/visualize\.py (disk|norms|traversal|neighbours) .*",
        change=(("(image|other)=<file>", r"\1={picture}"),),
        add=("count=8",),
        says=".png",
        makes="*.png",
    ),
    Row(
        r"python scripts/visualize\.py curves .*",
        change=((r"'?runs/birds_meru_from_scratch/\*'?", "{run}"),),
        says="learning curves of 1 run:",
        makes="curves.png",
    ),
    Row(
        r"python scripts/visualize\.py tree .*",
        change=(("'?<discovery run>'?", "{run}"),),
        says="which does not discover classes",
        exit_code=2,
    ),
    Row(
        r"python scripts/search\.py index=<index> .*",
        change=(
            ("<index>", "{index}"), ("<file>", "{picture}"), ("queries=queries.txt", "queries={queries}"),
            ("output=hits", "output={here}/hits"),
        ),
        says="score",
        makes="hits.*",
    ),
    Row(
        r'python scripts/search\.py run=<run folder> images=<folder> "a red bird"',
        change=(("<folder>", "{birds}/images"),),
        add=("workers=0",),
        says="score",
    ),
    Row(
        r"python scripts/index\.py run=<run folder> split=test",
        add=("workers=0", "output={here}/index"),
        says="images (",
    ),
    Row(
        r"python scripts/search\.py .*",
        change=((r"run=\S+", "run={run}"), (r"images=\S+", "images={birds}/images")),
        add=("workers=0",),
        says="score",
        makes="found.png",
    ),
    Row(
        r"python scripts/evaluate\.py run=<run folder> suite=zero_shot data=cub root=<folder>",
        change=(("<folder>", "{cub}"),),
        add=("workers=0", "output={here}/zero_shot.json"),
        says="mean of classes",
    ),
    Row(
        r"python scripts/evaluate\.py run=<run folder> suite=attacks attack_images=100",
        change=(("attack_images=100", "attack_images=8 attack_steps=1 attack_strengths=[2]"),),
        add=("workers=0", "output={here}/attacks.json", "captions_per_image=1"),
        says="worse of APGD-CE and APGD-DLR, ε = 2",
    ),
    Row(
        r"python scripts/evaluate\.py run=<run folder> suite=privacy",
        add=("workers=0", "output={here}/privacy.json", "+data.cache={here}/cache"),
        says="heads blurred",
        makes="privacy.png",
    ),
    Row(
        r"python scripts/evaluate\.py run=<run folder> \+data\.hidden_heads=cover",
        add=("workers=0", "+data.cache={here}/cache"),
        says="R@1",
        makes="cache/heads/*/*/*/*/*.jpg",
    ),
    Row(r"python scripts/serve\.py index=<index> hide_heads=cover", add=("--help",), says="hide_heads"),
    Row(
        r"python scripts/export\.py run=<run folder> format=hub output=exported",
        change=(("=exported", "={here}/exported"),),
        makes="exported/README.md",
    ),
    Row(
        r"python scripts/interpolate\.py run=<run folder> shares=\S+ split=validation",
        change=((r"shares=\S+", "shares=0,1"),),
        add=("start={run}",),
        says="validation",
    ),
    Row(r"python scripts/compare\.py .* --transfer persons", add=("--help",), says="--transfer"),
    Row(r"python scripts/compare\.py runs/\S+ runs/\S+", change=((r"runs/\S+", "{run}"),), says="± 0.0"),
    Row(
        r"python scripts/index\.py run=<run folder> images=\S+ output=<index>",
        change=((r"images=\S+", "images={birds}/images"), ("<index>", "{here}/index")),
        add=("workers=0",),
        makes="index/index.json",
    ),
    Row(r"python scripts/serve\.py index=<index>", add=("--help",), says="Ctrl-C"),  # tests/scripts serves an index
    Row(r"python scripts/report\.py run=<run folder>", add=("output={here}/report.html",), makes="report.html"),
    Row(
        r"python scripts/report\.py run=\S+ output=\S+ lang=zh",
        change=((r"run=\S+", "run={run},{run}"), (r"output=\S+", "output={here}/comparison.html")),
        makes="comparison.html",
    ),
    Row(
        r"python scripts/dashboard\.py entity=my-team .*",
        change=((r" dry_run=true output=\S+", ""),),
        add=("dry_run=true", "output={here}/sent.json"),
        makes="sent.json",
    ),
    # Data
    Row(r"python scripts/prepare_data\.py cub --download", add=("--root", "{cub}"), says="nothing to download"),
    Row(r"python scripts/prepare_data\.py cub", add=("--root", "{cub}"), says="every image decodes"),
    Row(
        r"python scripts/prepare_data\.py check data=pairs .*",
        change=((r"data\.path=\S+", "data.path={birds}/images"),),
        says="ready",
    ),
    Row(
        r"python scripts/prepare_data\.py check data=folder_discovery .*",
        change=((r"data\.root=\S+", "data.root={birds}/images"), (r"'data\.old_classes=\S+", "data.old_share=0.5")),
        says="ready",
    ),
    Row(
        r"python scripts/prepare_data\.py check data=person_list .*",
        change=((r"data\.path=\S+", "data.path={persons}/reid_raw.json data.images={persons}/imgs"),),
        add=("data.batch_size=4",),
        says="ready",
    ),
    Row(
        r"python scripts/prepare_data\.py describe data=cub (data\.root=<folder> )?output=captions",
        change=((" data.root=<folder>", ""),),
        add=("data.root={cub}",),
        says="sentences.json",
        makes="captions/*.json",
    ),
    Row(r"python scripts/prepare_data\.py (birds|pedestrians)", add=("--help",), says="--seed"),
    Row(r"python scripts/prepare_data\.py cuhk_pedes", add=("--root", "{persons}"), says="ready"),
    Row(r"python scripts/prepare_data\.py \w+", add=("--root", "{here}/none"), says="https://github.com", exit_code=2),
    # Benchmarks and checks
    Row(r"bash train_\w+\.sh", add=("--help",), says="Usage"),
    Row(r"python scripts/document_keys\.py", add=("--check",)),
    Row(r"python scripts/benchmark\.py geometry.*", add=("--batch", "64", "--dimension", "8"), says="|"),
    Row(
        r"python scripts/benchmark\.py loss .*",
        add=("--batch", "64", "--dimension", "8", "--repeats", "1"),
        says="sms, tiled",
    ),
    Row(
        r"python scripts/benchmark\.py retrieval",
        add=("--size", "50", "--dimension", "8", "--identities", "5"),
        says="cosine",
    ),
    # `--help`: a server for a moment would cost ten seconds, and tests/page has many requests at once.
    Row(
        r"python scripts/benchmark\.py data",
        add=("--images", "2", "--width", "60", "--height", "40", "--size", "16", "--repeats", "1"),
        says="image_cache",
    ),
    Row(r"python scripts/benchmark\.py data root=<folder>", add=("--help",), says="root"),
    Row(r"python scripts/benchmark\.py startup", add=("--help",), says="repeats"),  # takes a minute
    Row(r"python scripts/benchmark\.py page index=<index>", add=("--help",), says="--clients"),
    Row(
        r"python scripts/benchmark\.py latency.*",
        change=((r"latency.*", "latency rows=500 dimension=8 clients=1,2 queries=4 rounds=1 approximate=none"),),
        says="on paper",
    ),
    Row(
        r"python scripts/benchmark\.py search .*",
        add=("--size", "3000", "--dimension", "16", "--repeats", "1"),
        says="half precision",
    ),
    Row(
        r"python scripts/benchmark\.py step",
        add=("--batch", "2", "--repeats", "1", *SMALL_TOWERS),
        says="meru_patches",
    ),
    Row(
        r"python scripts/benchmark\.py step --task discovery .*",
        # The small tower has no weights that could be left out.
        change=(("dino_vitb16", "small"), ("--batch 128", "--batch 4"), (" encoder.image.pretrained=false", "")),
        says="simgcd + LHL",
    ),
    Row(r"python scripts/benchmark\.py step .*", composed=("model=meru_patches",)),
    Row(r"bash scripts/gpu_check\.sh gpu_check", add=("--help",), says="--smoke"),  # tests/scripts runs it
    Row(r"bash scripts/test\.sh.*", add=("--version",), says="pytest"),
    Row(r"bash \.ci/run", change=(("bash", "bash -n"),)),  # only read: it runs the tests
    Row(r"bash scripts/carry_wheels\.sh \S+", change=((r"\S+$", "--help"),), says="Usage", exit_code=2),
    # Runs that take too long for a test
    Row(r"(NGPU=\d )?bash train_cub\.sh (meru|clip)( .*)?", composed=()),
    Row(r"bash train_patches_cub\.sh .*", composed=()),
    Row(r"python scripts/(train|ablate|evaluate)\.py .*", composed=()),
)


def row_of(command: str) -> Row | None:
    """The first row that fits a command."""
    return next((row for row in ROWS if re.fullmatch(row.form, command)), None)
