"""How steady the top route is when a prompt is worded otherwise, and where the wish stands in a long prompt.

    python bench/stability.py --data DATA [--encoder minilm]

Each data set is built from ten utterances a route and asked for its validation prompts, as they are and perturbed;
test splits are not touched. `right` is the share of prompts whose top route is the labelled one, `moved` the share
whose top route is not that of the clean prompt. The openings and closings called `foreign` are written to be none of
those that semroute/wording.py names. Long prompts are validation prompts at the start, the end or the middle of
500 to 4,000 characters of exam questions (routellm_mmlu); the last row is such text without a prompt: its mean
confidence, and the share that a route serves.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from pathlib import Path

from common import heading, rows, write_project

from semroute import Router, load, perturb
from semroute.build import build_index
from semroute.perturb import Perturbation

FOREIGN_OPENINGS = [
    "good afternoon to you all, ", "hello dear assistant, ", "i was just wondering, ", "yo, ", "umm so ",
    "if it is not too much trouble, ", "would you be so kind and tell me, ", "may i ask something? ",
]  # fmt: skip
FOREIGN_CLOSINGS = [
    " if you do not mind",
    ", appreciate it",
    " much appreciated",
    " - bless you",
    ", that would be great",
]
PLACES = {"start": "at the start", "end": "at the end", "middle": "in the middle"}


PERTURBATIONS: dict[str, Perturbation] = {
    "one typo": perturb.typo,
    "two typos": perturb.two_typos,
    "UPPER CASE": perturb.upper,
    "Title Case": lambda text, _: text.title(),
    "no punctuation": lambda text, _: re.sub(r"[^\w\s]", "", text),
    "trailing ?": perturb.question_mark,
    "trailing !!": lambda text, _: perturb.bare(text) + "!!",
    "please before": lambda text, _: "please " + text,
    "please after": lambda text, _: perturb.bare(text) + " please",
    "polite opening": perturb.polite_opening,
    "foreign opening": lambda text, chance: chance.choice(FOREIGN_OPENINGS) + text,
    "polite closing": perturb.polite_closing,
    "foreign closing": lambda text, chance: text + chance.choice(FOREIGN_CLOSINGS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", choices=("minilm", "static"), default="minilm")
    parser.add_argument("--prompts", type=int, default=1000, help="validation prompts of each data set")
    given = parser.parse_args()
    heading(f"Stable answers, {given.encoder}")
    exams = [row["prompt"] for row in rows(given.data / "routellm_mmlu" / "outcomes.jsonl")]
    for name in ("clinc150", "banking77"):
        router = built(given.data / name, given.encoder)
        valid = rows(given.data / name / "valid.jsonl")
        cases = random.Random(0).sample(valid, min(given.prompts, len(valid)))
        print_short(name, router, cases)
        print_long(name, router, cases[:150], exams)


def built(folder: Path, encoder: str) -> Router:
    with tempfile.TemporaryDirectory() as scratch:
        project = write_project(Path(scratch) / "routes", rows(folder / "train_10.jsonl"), encoder)
        build_index(project, Path(scratch) / "index")
        return load(Path(scratch) / "index")


def print_short(name: str, router: Router, cases: list[dict]) -> None:
    wanted = [case["route"] for case in cases]
    clean = top_routes(router, [case["prompt"] for case in cases])
    print(f"{name + ' train_10':24}{'right':>9}{'moved':>9}")
    print(f"{'clean':24}{share(clean, wanted):>9.1%}")
    for kind, worded in PERTURBATIONS.items():
        chance = random.Random(f"{name} {kind}")
        found = top_routes(router, [worded(case["prompt"], chance) for case in cases])
        print(f"{kind:24}{share(found, wanted):>9.1%}{1 - share(found, clean):>9.1%}")
    print()


def print_long(name: str, router: Router, cases: list[dict], exams: list[str]) -> None:
    wanted = [case["route"] for case in cases]
    print(f"{name + ', long prompts':24}{'right':>9}")
    for where, words in PLACES.items():
        chance = random.Random(f"{name} {where}")
        found = top_routes(router, [placed(case["prompt"], where, exams, chance) for case in cases])
        print(f"{words:24}{share(found, wanted):>9.1%}")
    chance = random.Random(name)
    decisions = router.route_many(filler(exams, chance.randint(500, 4000), chance) for _ in cases)
    mean = sum(decision.confidence for decision in decisions) / len(decisions)
    served = sum(decision.route is not None for decision in decisions) / len(decisions)
    print(f"out of scope: mean confidence {mean:.2f}, {served:.1%} served by a route\n")


def placed(prompt: str, where: str, exams: list[str], chance: random.Random) -> str:
    """`prompt` within unrelated text, as a sentence of its own."""
    characters, gap = chance.randint(500, 4000), chance.choice([" ", "\n", "\n\n"])
    sentence = prompt if prompt[-1] in ".?!" else prompt + "."
    if where == "start":
        return sentence + gap + filler(exams, characters, chance)
    if where == "end":
        return filler(exams, characters, chance) + "." + gap + prompt
    before, after = (filler(exams, characters // 2, chance) for _ in range(2))
    return f"{before}.{gap}{sentence}{gap}{after}"


def filler(exams: list[str], characters: int, chance: random.Random) -> str:
    text = ""
    while len(text) < characters:
        text += chance.choice(exams).removesuffix("Answer:").strip() + "\n"
    return text[:characters].rsplit(None, 1)[0]


def top_routes(router: Router, prompts: list[str]) -> list[str | None]:
    return [next(iter(decision.scores), None) for decision in router.route_many(prompts)]


def share(found: list, wanted: list) -> float:
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


if __name__ == "__main__":
    main()
