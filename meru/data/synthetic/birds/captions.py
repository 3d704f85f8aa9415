"""Ten sentences about one synthetic bird, true to its picture.

The order is the same in every file: first a detailed description without the name of the species (evaluations
often use only that one), two more in the style of CUB's captions, two that name the species, one on the view,
then less and less detail down to "a bird". Parts that are hidden in the picture are not mentioned, not even in a name.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from meru.data.synthetic.birds.species import FAMILIES, Species


def describe(
    species: Species,
    *,
    parts: Collection[str],
    scene: str,
    facing: str,
    wings_raised: bool,
    rng: np.random.Generator,
) -> list[str]:
    """Ten captions of one picture; the arguments except `rng` are those of `Picture`.

    Args:
        species: The bird.
        parts: CUB's names of the visible parts.
        scene: Such as "on a branch".
        facing: "left" or "right".
        wings_raised: Whether the wings are raised or folded.
        rng: Random generator for templates and parts.
    """
    phrases = _part_phrases(species, {part.split()[-1] for part in parts}, rng)
    size = FAMILIES[species.family].size.replace("very_", "").split("_")[0]
    family, back = species.family, species.colours["back"]

    def some(count: int) -> str:
        """`count` parts in random order, preferring the mark and those that differ from the back."""
        interest = {part: rng.random() + 0.4 * _differs(species, part) for part in phrases}
        if species.mark_part in interest:
            interest[species.mark_part] += 0.4
        chosen = sorted(phrases, key=interest.get, reverse=True)[:count]
        return _enumerated([phrases[part] for part in rng.permutation(chosen)])

    def one_of(*sentences: str) -> str:
        return sentences[rng.integers(len(sentences))]

    name = species.name.lower() if species.mark_part in phrases else f"{back} {family}"
    name = one_of(name, name.replace("-", " "))
    wings = ("with its wings raised" if wings_raised else "with folded wings") if "wing" in phrases else ""
    view = one_of(f"{scene}, facing {facing}", f"facing {facing} {scene}", f"{scene}, looking {facing}")
    captions = [
        f"a {size} {back} {family} with {some(3)}",
        one_of(f"this bird has {some(3)}", f"the bird has {some(4)}", f"this is a {back} bird with {some(3)}"),
        one_of(f"a {size} bird with {some(2)}", f"this {size} bird has {some(2)}", f"this {family} has {some(2)}"),
        one_of(f"a photo of a {name}", f"this is a {name}", f"a {name}, a type of {family}"),
        one_of(f"a {name} {view}", f"a {name} {scene} {wings}", f"a {size} {name} {scene}"),
        one_of(f"a {size} {back} bird {view} {wings}", f"a {back} {family} {view} {wings}"),
        f"a {back} {family} with {some(1)}",
        one_of(f"a {back} {family}", f"a {size} {back} {family}", f"a {size} {back} bird"),
        one_of(f"a {size} {family}", f"a {family}", f"a photo of a {family}"),
        one_of("a bird", "a photo of a bird", "this is a bird"),
    ]
    return [_with_articles(caption) + "." for caption in captions]


def _differs(species: Species, part: str) -> bool:
    return species.pattern(part) != "solid" or species.colour(part) != species.colours["back"]


def _part_phrases(species: Species, visible: set[str], rng: np.random.Generator) -> dict[str, str]:
    """A noun phrase for every visible part (CUB's names, without the sides)."""
    family = FAMILIES[species.family]
    adjectives = {"beak": family.beak[-1], "tail": family.tail[-1], "leg": family.leg[-1]}
    nouns = {"beak": ("bill", "beak")[rng.integers(2)], "wing": "wings", "leg": "legs", "eye": "eyes"}
    phrases = {}
    for part in sorted(visible):
        pattern = species.pattern(part) if species.pattern(part) != "solid" else ""
        noun = nouns.get(part, part)
        words = (adjectives.get(part), pattern, species.colour(part), noun)
        phrases[part] = ("" if noun.endswith("s") else "a ") + " ".join(word for word in words if word)
    if "crown" in visible and species.crest:
        phrases["crown"] = f"a {species.colour('crown')} crest on its crown"
    if "eye" in visible and species.eye_ring:
        phrases["eye"] = f"a {species.eye_ring} ring around the eye"
    return phrases


def _enumerated(phrases: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def _with_articles(caption: str) -> str:
    """Turn "a orange" into "an orange"."""
    words = caption.split()
    followers = [*words[1:], ""]
    return " ".join("an" if pair[0] == "a" and pair[1][:1] in tuple("aeiou") else pair[0]
                    for pair in zip(words, followers, strict=True))
