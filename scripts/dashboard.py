"""Make a report in Weights & Biases that compares MERU, CLIP and patch runs over seeds.

    python scripts/dashboard.py entity=TEAM [project=meru] [runs=cub_meru,cub_clip] [group=name]
    python scripts/dashboard.py entity=TEAM dry_run=true [output=report.json]

entity, project   the runs' place in W&B; the report is saved there
runs              the names of runs (their key `name`); by default all runs of the project
group             the key of the configuration that runs of one colour share; by default `name`, data and model
dry_run           true: write what would be sent as JSON instead; needs no network and no log-in
output            the JSON file, with dry_run=true

Needs the package wandb-workspaces. The panels show what runs with logger=wandb log.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.errors import UserError, require

MEANINGS = {
    "entity": "a user or team in W&B",
    "project": "a project in W&B",
    "runs": "names of runs, separated by commas",
    "group": "a key of the configuration",
    "dry_run": "true or false",
    "output": "the path of a JSON file",
}


def main() -> None:
    """Read the command line, `key=value` words; make the dashboard and print its place."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)
        if "entity" not in given:
            raise UserError(f"entity= is missing: give {MEANINGS['entity']}; see --help")
        dry_run = given.pop("dry_run", "false")
        require(dry_run, ("true", "false"), key="dry_run")

        from meru.runs.dashboard import make_dashboard

        print(make_dashboard(**given, dry_run=dry_run == "true"))


if __name__ == "__main__":
    main()
