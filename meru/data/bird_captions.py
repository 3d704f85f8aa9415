"""Ten sentences about one drawn bird, true to its picture.

Order, the same in every file: the first is a medium to detailed description (evaluations often use only that one), two
in the wording of CUB's captions, two that name the species, one on the view, then less and less detail down to "a bird".
A part that is hidden in the picture is not spoken of, not even in the name.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from meru.data.bird_species import FAMILIES, Species

CAPTIONS_PER_IMAGE = 10


def describe(
    species: Species, *, parts: Collection[str], scene: str, facing: str, wings_raised: bool, rng: np.random.Generator
) -> list[str]:
    """Captions of one picture, from the species and from what `bird_drawing.Picture` says of the view.

    Args:
        parts: CUB's names of the visible parts.
        scene: Such as "on a branch".
        facing: "left" or "right", as seen by who looks at the picture.
    """
    phrases = _part_phrases(species, {part.split()[-1] for part in parts}, rng)
    mark = phrases.get(species.mark_part)
    others = [phrase for part, phrase in phrases.items() if part != species.mark_part]
    rng.shuffle(others)

    def some(count: int) -> str:
        """A few parts, the telling one more often than the rest."""
        chosen = others[:count] if mark is None or rng.random() < 0.3 else [mark, *others[: count - 1]]
        rng.shuffle(others)
        rng.shuffle(chosen)
        return _enumerate(chosen)

    def one_of(*sentences: str) -> str:
        return sentences[rng.integers(len(sentences))]

    size = FAMILIES[species.family].size.replace("very_", "").split("_")[0]
    family, colour = species.family, species.colours["back"]
    name = f"{colour} {family}" if mark is None else species.name.lower()
    if rng.random() < 0.5:
        name = name.replace("-", " ")
    wings = ""
    if "wing" in phrases:
        wings = " with its wings raised" if wings_raised else " with folded wings"
    view = one_of(f"{scene}, facing {facing}", f"facing {facing} {scene}", f"{scene}, looking to the {facing}")
    first = [phrase for phrase in (mark, *others[:2]) if phrase]

    captions = [
        f"a {size} {colour} {family} with {_enumerate(first)}",
        one_of(f"this bird has {some(3)}", f"the bird has {some(3)}", f"this is a {colour} bird with {some(3)}"),
        one_of(f"a {size} bird with {some(2)}", f"this {size} bird has {some(2)}", f"a {family} that has {some(2)}"),
        one_of(f"a photo of a {name}", f"this is a {name}", f"a {name}, a type of {family}"),
        one_of(f"a {name} {view}", f"a {size} {name} {scene}", f"a {name} seen {scene}{wings}"),
        one_of(f"a {size} {colour} bird {view}{wings}", f"a {colour} {family} {view}{wings}"),
        f"a {colour} {family} with {some(1)}",
        one_of(f"a {colour} {family}", f"a {size} {colour} {family}", f"a {size} {colour} bird"),
        one_of(f"a {size} {family}", f"a {family}", f"a photo of a {family}"),
        one_of("a bird", "a photo of a bird", "this is a bird"),
    ]
    return [_with_article(caption.replace(" with nothing", "")) + "." for caption in captions]


def _part_phrases(species: Species, visible: set[str], rng: np.random.Generator) -> dict[str, str]:
    """A noun phrase for every visible part."""
    family = FAMILIES[species.family]
    bill = ("bill", "beak")[rng.integers(2)]

    def coloured(part: str) -> str:
        """ "black wings with white bars", "a spotted buff breast"."""
        noun = {"wing": "wings", "leg": "legs", "eye": "eyes"}.get(part, part)
        article = "" if noun.endswith("s") else "a "
        pattern, colour = species.pattern(part), species.colour(part)
        return f"{article}{colour} {noun}" if pattern == "solid" else f"{article}{pattern} {colour} {noun}"

    phrases = {part: coloured(part) for part in ("back", "belly", "breast", "forehead", "nape", "throat", "wing")}
    phrases["beak"] = f"a {family.beak[3]} {species.colour('beak')} {bill}"
    phrases["tail"] = coloured("tail").replace("a ", f"a {family.tail[4]} ", 1)
    phrases["leg"] = f"{family.leg[1]} {coloured('leg')}".strip()
    phrases["eye"] = f"a {species.eye_ring} eye ring" if species.eye_ring else coloured("eye")
    phrases["crown"] = f"a {species.colour('crown')} crest on its crown" if species.crest else coloured("crown")
    if species.mark.endswith("headed"):
        phrases["crown"] = f"a {species.colour('head')} crown and nape" if "nape" in visible else coloured("crown")
    return {part: phrases[part] for part in sorted(phrases) if part in visible}


def _enumerate(phrases: list[str]) -> str:
    if len(phrases) < 2:
        return phrases[0] if phrases else "nothing"
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _with_article(caption: str) -> str:
    """"a orange" becomes "an orange"."""
    words = caption.split(" ")
    for position, word in enumerate(words[:-1]):
        if word == "a" and words[position + 1][0] in "aeiou":
            words[position] = "an"
    return " ".join(words)
