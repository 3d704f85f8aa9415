"""A folder for `scripts/ablate.py` with a stub in place of training."""

import json
import os
import signal
import sys

import yaml

from meru.files import PROJECT
from meru.runs import ablation_file, ablation_queue

SCRIPTS = PROJECT / "scripts"
# Does what the override `name=` says, instead of training. Its first validation is better than its second, and better
# with a higher learning rate.
STUB = """
import json, os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
resumed = "resume" in words
folder = pathlib.Path(words["resume" if resumed else "folder"])
folder.mkdir(parents=True, exist_ok=True)
with (folder.parent / "calls.jsonl").open("a") as calls:
    environment = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    calls.write(json.dumps([sys.argv[1:], environment, time.monotonic()]) + "\\n")
do = words.get("name", "")
if do == "fail" and not resumed:
    print("reading", flush=True)
    sys.exit("error: the disk is full")
if do == "misuse":
    print("error: no such thing", flush=True)
    sys.exit(2)
if do == "wait" and not resumed:
    (folder / "config.yaml").write_text((folder.parent / f"{folder.name}.expected").read_text())
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "last.pt").touch(), sys.exit(0)))
    (folder / "waiting").touch()
    time.sleep(60)
(folder / "duration.json").write_text(json.dumps({"minutes": 1.5, "cpu_minutes": 3.0}))
share = 0.1 * (1 + int(str(folder)[-1]))
rate = float(words.get("optim.learning_rate", "0"))
with (folder / "metrics.jsonl").open("w") as metrics:
    for step, figure in enumerate((0.1 + rate, 0.05)):
        found = {f"validation/text_to_image/{row}/recall@1": figure / n for n, row in ((1, "class"), (2, "image"))}
        metrics.write(json.dumps({"step": step, **found}) + "\\n" + json.dumps({"step": step, "loss": 1.0}) + "\\n")
found = {"text_to_image/image/recall@1": share, "text_to_image/image/chance_recall@1": 0.02}
(folder / "test.json").write_text(json.dumps(found))
"""


def make_workplace(tmp_path, monkeypatch):
    """Two variants whose training is the stub; returns how to start the script, and its output folder."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import ablate

    (tmp_path / "ablations").mkdir()
    (tmp_path / "train.py").write_text(STUB)
    monkeypatch.setattr(ablation_file, "ABLATIONS", tmp_path / "ablations")
    monkeypatch.setattr(ablation_queue, "TRAIN", tmp_path / "train.py")
    monkeypatch.setattr(ablation_queue, "visible_gpus", list)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    output = tmp_path / "runs"

    def start(*words, variants=None, columns=None, **sections):
        variants = variants or {"MERU": [], "without entailment": ["loss.entailment.weight=0"]}
        content = {"columns": columns or {"R@1": "text_to_image/image/recall@1"}, "variants": variants, **sections}
        (tmp_path / "ablations" / "meru.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        which = "ablation=meru" if "experiment" in sections else "experiment=birds_meru"
        monkeypatch.setattr(sys, "argv", ["ablate.py", which, f"output={output}", *words])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ablate.main()
            return 0
        except SystemExit as left:
            return left.code
        finally:
            signal.signal(signal.SIGTERM, handler)

    return start, output


def calls(output):
    return [json.loads(line) for line in (output / "calls.jsonl").read_text().splitlines()]
