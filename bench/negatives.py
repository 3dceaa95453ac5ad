"""What given negatives do: `default.heldout` of CLINC150, cross-validated over its out-of-scope validation prompts.

    python bench/negatives.py --data DATA [--encoder minilm] [--utterances train_10 ...]

Each tenth of these 100 prompts is asked of an index that was given the other ninety, together with the validation prompts in
scope. `together` weighs prompts out of scope by 18.2 %, their share in the test split, which is not touched. A hundred
prompts tell `together` to about 0.5 points.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import heading, rows, write_project

from semroute import load
from semroute.build import build_index

_PARTS = 10
_OUTSIDE = 1_000 / 5_500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--utterances", nargs="+", default=["train_10", "train_5"])
    arguments = parser.parse_args()
    heading("Given negatives, CLINC150, validation prompts")
    print(f"{'':24}{'given':>8}{'served':>10}{'refused':>10}{'together':>10}")
    for utterances in arguments.utterances:
        folder = arguments.data / "clinc150"
        labelled = rows(folder / f"{utterances}.jsonl")
        inside = rows(folder / "valid.jsonl")
        outside = [row["prompt"] for row in rows(folder / "oos_valid.jsonl")]
        with tempfile.TemporaryDirectory() as scratch:
            for given in (0, len(outside) - len(outside) // _PARTS):
                served, refused = asked(Path(scratch), labelled, inside, outside, arguments.encoder, given)
                together = (1.0 - _OUTSIDE) * served + _OUTSIDE * refused
                label = f"{arguments.encoder}, {utterances}"
                print(f"{label:24}{given:>8}{served:>10.1%}{refused:>10.1%}{together:>10.1%}", flush=True)


def asked(scratch: Path, labelled, inside, outside, encoder: str, given: int) -> tuple[float, float]:
    """The share in scope that its route serves, and the share out of scope that is refused."""
    order = np.random.default_rng(0).permutation(len(outside)).tolist()
    served, refused = [], []
    for part in range(_PARTS if given else 1):
        mine = order[part::_PARTS] if given else order
        heldout = [outside[row] for row in order if row not in mine] if given else []
        project = write_project(scratch / "routes", labelled, encoder, heldout=heldout)
        build_index(project, scratch / "index")
        router = load(scratch / "index")
        found = router.route_many([row["prompt"] for row in inside])
        served.append(np.mean([d.route == row["route"] for d, row in zip(found, inside, strict=True)]))
        refused += [d.route is None for d in router.route_many([outside[row] for row in mine])]
    return float(np.mean(served)), float(np.mean(refused))


if __name__ == "__main__":
    main()
