"""Train an image–text or category discovery model: `python scripts/train.py experiment=birds_meru`.

All keys: `python scripts/train.py --cfg job`; recipes: configs/experiment/.
"""

from meru.runs.commands import train

if __name__ == "__main__":
    train()
