import json
import sys

import pytest

from benchmarks.accelerator import correct, kernels, ladder, page, part, product, shapes, speed
from benchmarks.accelerator.part import FAILED, MEASURED, NOT_REACHED, Part

MODULES = {"correct": correct, "product": product, "ladder": ladder, "speed": speed}


@pytest.fixture
def begun(tmp_path):
    """`begun(name, group, seconds)`: a part whose file has no rows yet."""

    def begin(name: str, group: str, seconds: float = 600) -> Part:
        part.begin(name, tmp_path, dry=True)
        return Part(name, tmp_path, group, seconds, dry=True)

    return begin


def rows_of(tmp_path, name: str) -> list[dict]:
    return json.loads((tmp_path / f"{name}.json").read_text())["rows"]


# Parts ---------------------------------------------------------------------------------------


def test_every_measurement_is_in_the_file_at_once_whatever_comes_of_it(begun, tmp_path):
    own, states = begun("speed", "card"), []

    def fail() -> dict:
        states.extend(row["state"] for row in rows_of(tmp_path, "speed"))
        raise ValueError("first line\nsecond")

    assert own.measure("works", lambda: {"seconds": 2.0}) and not own.measure("fails", fail)
    assert not Part("speed", tmp_path, "card", 0, True).measure("late", fail)
    assert states == [MEASURED]
    rows = rows_of(tmp_path, "speed")
    assert [row["state"] for row in rows] == [MEASURED, FAILED, NOT_REACHED]
    assert rows[1]["error"] == "ValueError: first line second"
    assert own.found("card", "works")["seconds"] == 2.0 and own.found("card", "fails") is None


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("pass", ""),
        ("raise ValueError('no')", "ended with status 1: ValueError: no"),
        ("import os; os.kill(os.getpid(), 11)", "ended with status -11: it said nothing"),
        ("import time; time.sleep(60)", "did not end within 5 s"),
    ],
)
def test_a_process_that_fails_says_why(program, told):
    assert part.run_process([sys.executable, "-c", program], 5, {}) == told


@pytest.mark.parametrize(
    ("arguments", "told"), [([], "--out is missing"), (["--group=none"], "--group"), (["more"], "unexpected")]
)
def test_errors_of_use_are_one_line(arguments, told, capsys):
    assert part.main(["speed", *arguments], speed.__doc__, speed.GROUPS) == 2
    assert told in capsys.readouterr().err


def test_groups_of_which_no_time_is_left_are_noted(tmp_path):
    assert part.main(["speed", f"--out={tmp_path}", "--dry", "--seconds=0"], "", speed.GROUPS) == 0
    rows = rows_of(tmp_path, "speed")
    assert [(row["group"], row["state"]) for row in rows] == [(name, NOT_REACHED) for name in speed.GROUPS]


# Measurements --------------------------------------------------------------------------------


def test_attention_is_right_here(begun, tmp_path):
    kernels.group(begun("correct", "kernels"))
    rows = rows_of(tmp_path, "correct")
    assert len(rows) == 6 and all(row["passed"] for row in rows)


def test_masks_forbid_what_they_should():
    case = kernels.Case(tokens=8, last=8, mask="branches", rows=1, stem=4)
    seen = kernels.seen_in(case, kernels.segments_of(case)[:, :4])[0]
    assert seen[5].tolist() == [True] * 6 + [False] * 2  # the first continuation
    assert seen[7].tolist() == [True] * 4 + [False] * 2 + [True] * 2
    packed = kernels.Case(tokens=6, last=2, mask="packed", rows=2)
    seen = kernels.seen_in(packed, kernels.segments_of(packed))
    assert seen[0, 1].tolist() == [False] * 3 + [True] * 3 and not seen[1, 1].any()


def test_an_error_that_is_no_number_does_not_pass():
    assert not kernels.judged(float("nan"), 1.0)["passed"]


def test_decoding_is_a_share_of_what_the_card_can_do(begun, tmp_path, monkeypatch):
    own, plans = begun("speed", "card"), speed.Programs.all
    speed.card(own)
    monkeypatch.setattr(speed.Programs, "all", lambda programs: plans(programs)[:2])
    speed.size(Part("speed", tmp_path, "160M", 600, True))
    rows = {row["name"]: row for row in rows_of(tmp_path, "speed")}
    assert {"product", "copy", "prefill", "generation", "decoding"} == rows.keys()
    assert rows["generation"]["of_product"] > 0 and rows["decoding"]["of_copy"] is not None


def test_posts_are_as_long_as_real_ones():
    bucket, sizes = shapes.usual_bucket(shapes.lengths())
    assert bucket == 384 and len(sizes) > 300 and sizes[:, 0].max() == 384


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_dry_run_measures_everything(name, tmp_path):
    arguments = [name, f"--out={tmp_path}", "--dry", "--seconds=900"]
    assert part.main(arguments, MODULES[name].__doc__, MODULES[name].GROUPS) == 0
    rows = rows_of(tmp_path, name)
    untold = {(row["group"], row["name"]) for row in rows if row["state"] != MEASURED}
    expected = {(group, group.removeprefix("memory.")) for group in correct.GROUPS if "memory" in group}
    assert untold == (expected if name == "correct" else set())  # a CPU does not tell its memory
    assert all(row["passed"] for row in rows if "passed" in row)
    assert page.main(["page", str(tmp_path), f"--out={tmp_path / 'page.md'}"]) == 0


# The page ------------------------------------------------------------------------------------


def invented(name: str, rows: list[dict], dry: bool = False) -> dict:
    machine = {"card": "invented card", "processor": "two cores", "python": "3.12", "jax": "0.0", "optax": ""}
    return {"part": name, "dry": dry, "date": "2000-01-01", "machine": machine, "rows": rows}


def row(group: str, name: str, state: str = MEASURED, **values) -> dict:
    return {"group": group, "name": name, "state": state, "took": 3.0} | values


def test_the_page_shows_what_ran_and_says_what_did_not():
    told = {"peak": 2**30}
    rows = [
        row("kernels", "left padding", error=0.004, allowed=0.02, passed=True),
        row("memory.sft", "sft", error=0.5, allowed=0.15, passed=False, measured=2**31, told=told),
        row("ppo", "", FAILED, error="ended with status 1: no"),
        row("bits", "", NOT_REACHED),
    ]
    rate = {"preferred": {"ppo": [0.9, 0.01]}, "key_fact": {"ppo": 0.5}}
    parts = {
        "correct": invented("correct", rows),
        "product": invented("product", [row("demo", "sft"), row("demo", "results", **rate)], dry=True),
    }
    text = page.page(parts)
    assert "1 of 2 checks that ran passed" in text and "| sft | 2.00 | 1.00 | 50% | **not passed** |" in text
    assert "| PPO | 92.6% ± 0.9% | 90.0% ± 1.0% | 50% |" in text
    assert "- correct, ppo failed: ended with status 1: no\n- correct, bits was not reached." in text
    assert "- The part speed did not run." in text and "jax 0.0." in text
    assert "**Dry runs at toy size, no measurements: product.**" in text


def test_the_page_of_speed():
    times = {"seconds": 0.5, "least": 0.4, "most": 0.6, "flops": 1e14, "of_product": 0.25}
    rows = [
        row("card", "product", size=8192, flops_per_second=8e14),
        row("card", "copy", bytes_per_second=3e12),
        row("1B", "SFT step", tokens_per_second=1e5, planned_bytes=2**30, compile_seconds=9, **times),
        row(
            "1B",
            "decoding",
            seconds_per_step=0.002,
            tokens_per_second=4e4,
            least_bytes_per_step=3e9,
            of_copy=0.5,
        ),
    ]
    text = page.page({"speed": invented("speed", rows)})
    assert "at 800 TFLOP/s, and 3 TB/s" in text
    assert "| 1B | SFT step | 0.5 (0.4 to 0.6) | 100,000 | 200 | 25% | 1.00 | 9 |" in text
    assert "| 1B | 2 | 40,000 | 3 | 50% |" in text


def test_a_page_of_nothing_is_refused(tmp_path, capsys):
    assert page.main(["page", str(tmp_path), f"--out={tmp_path / 'page.md'}"]) == 2
    assert "holds none of correct.json" in capsys.readouterr().err


def test_the_page_of_the_ladder():
    kinds = {"object": {"accuracy": 0.97}, "roles": {"accuracy": 0.5}}
    rows = [
        row("bases", "speed", updates=1200, tokens_per_second=2e5),
        row("bases", "tiny", parameters=99_736, kinds=kinds),
    ]
    text = page.page({"ladder": invented("ladder", rows)})
    assert "200,000 tokens a second, 1,200 updates" in text
    assert "| size | parameters | object | roles |" in text and "| tiny | 99,736 | 97% | 50% |" in text
