"""Train an image–text or category discovery model: `python scripts/train.py experiment=birds_meru`.

All keys: `python scripts/train.py --cfg job`; recipes: configs/experiment/.
"""

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.runs.commands import train

if __name__ == "__main__":
    train()
