"""The benchmarks: their peers are equal, their statistics right, and nothing is claimed of what differs."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

import blan_layers
from benchmarks import attention, draw, lmim, memory, model, peers, run, timing
from benchmarks.chart import over_fastest
from benchmarks.contest import Case, Contest, agree, differences
from benchmarks.machine import machine, name_of
from benchmarks.record import RecordError, load, merge, prepared
from benchmarks.suites import SUITES, cases_of
from blan_facial.config import PRESETS

CPU = torch.device("cpu")
SMALL = (2, 16, 6, 5)


def in_float64(build) -> Case:
    return Case("a case", "", True, False, build, torch.float64)


def among_themselves(contest: Contest, first: str) -> Mapping[str, tuple[float, float]]:
    """Compare the peers with one of them instead of with ours."""
    ours, *others = contest.contenders
    (expected,) = (other for other in others if other.name == first)
    rest = [other for other in others if other is not expected]
    return differences(dataclasses.replace(contest, contenders=[expected, *rest, ours]))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (partial(attention.cbam, shape=SMALL, device=CPU), "literal"),
        (partial(attention.residual, shape=SMALL, device=CPU), "literal"),
        (partial(attention.rdam, shape=SMALL, device=CPU), "timm's form"),
        *(
            (partial(attention.gate, kind=kind, shape=SMALL, device=CPU), "literal")
            for kind in (blan_layers.ECA, blan_layers.SCSE, blan_layers.BAM, blan_layers.CoordinateAttention)
        ),
        (partial(attention.attention_gate, shape=SMALL, device=CPU), "literal"),
        (partial(attention.rar, shape=SMALL, device=CPU), "literal"),
        (partial(lmim.lmim, batch=3, channels=8, side=4, device=CPU), "literal"),
    ],
)
def test_peers_equal_the_literal_twin_in_float64(build, expected, monkeypatch):
    monkeypatch.setattr(lmim, "WIDTH", 16)
    case = dataclasses.replace(in_float64(build), timed=False)  # without the compiled peer
    contest = build(case)
    errors = among_themselves(contest, expected)
    assert len(errors) == len(contest.contenders) - 1
    assert all(agree(error, contest) for error in errors.values()), errors


def test_the_plain_assembly_of_the_model_equals_ours():
    sizes = {"image_size": 64, "width": 8, "blocks": (1, 1, 1, 1), "summary_channels": 16, "critic_channels": 16}
    training, *inference = model.cases(CPU, dataclasses.replace(PRESETS["celeba"], **sizes))
    for case in (training, inference[0]):
        contest = case.build(case)
        errors = differences(contest)
        assert set(errors) == {"plain forms"}  # the step that computes less is no peer
        assert agree(errors["plain forms"], contest), errors
        assert contest.contenders[2].computes_less
        contest.contenders[2].step()


def test_what_is_not_a_number_does_not_agree():
    contest = Contest([])
    assert agree((0.0, 0.0), contest)
    assert not agree((math.nan, 0.0), contest)
    assert not agree((0.0, 1e-3), contest)


def test_maxima_that_rounding_would_decide_are_drawn_anew():
    torch.manual_seed(0)
    x = torch.ones(2, 3, 4, 4)
    (drawn,) = attention._separated([x], lambda x: (x, x))
    for tops in (drawn.topk(2, 1).values.movedim(1, -1), drawn.flatten(2).topk(2, 2).values):
        assert not attention._close(tops, 1e-5).any()


def test_quartiles_and_ratios_are_those_of_the_numbers():
    assert timing.quartiles([5, 1, 4, 2, 3]) == (2, 3, 4)
    assert timing.ratios([2, 40, 6, 8, 10], [2, 20, 2, 2, 2]) == (2, 3, 4)  # 1, 2, 3, 4, 5: a slow round is no outlier


def test_contenders_take_turns_and_short_ones_begin_theirs_unmeasured(monkeypatch):
    monkeypatch.setattr(timing, "SHORT", 0.02)
    taken = []

    def long() -> None:
        taken.append("long")
        timing.time.sleep(0.03)

    times = timing.alternate({"a": lambda: taken.append("a"), "long": long}, 0.0, 2, CPU)
    assert taken == ["a", "long"] * 2 + ["a", "a", "long"] * 2
    assert {name: len(each) for name, each in times.items()} == {"a": 2, "long": 2}


def test_peak_memory_is_that_of_the_step():
    measured = memory.peak_of(lambda: torch.ones(2**24), CPU)
    assert measured["method"] in ("VmHWM", "getrusage")
    assert measured["peak"] - measured["before"] == pytest.approx(64, abs=8)


def test_peak_memory_is_taken_in_a_process_of_its_own():
    label = next(case.label for case in cases_of("lmim", CPU) if "8x8" in case.label)
    measured = memory.peak_in_a_process("lmim", label, "ours", CPU)
    assert 0 < measured["before"] < measured["peak"]


def test_memory_falls_back_where_the_mark_cannot_be_set_back(monkeypatch):
    monkeypatch.setattr(memory, "PROCESS", Path("/nowhere"))
    measured = memory.peak_of(lambda: None, CPU)
    assert measured["method"] == "getrusage"
    assert measured["peak"] >= measured["before"] > 0


@pytest.mark.parametrize("suite", SUITES)
def test_labels_tell_the_cases_of_a_suite_apart(suite):
    labels = [case.label for case in cases_of(suite, CPU)]
    assert len(set(labels)) == len(labels) > 0


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(attention, "SIZES", (SMALL,))
    monkeypatch.setattr(lmim, "SIZES", ((8, 4),))
    monkeypatch.setattr(lmim, "WIDTH", 16)
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    monkeypatch.setattr(peers, "timm", lambda: None)


@pytest.mark.usefixtures("_small")
def test_a_quick_run_measures_shows_and_writes(tmp_path, capsys):
    output = tmp_path / "results.json"
    for suite in ("attention", "lmim"):
        assert run.main(["--suite", suite, "--quick", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "timm is not installed" in shown
    assert "official form" in shown
    content = load(output)
    assert set(content["suites"]) == {"attention", "lmim"}
    assert content["suites"]["attention"]["run"]["versions"]["torch"] == torch.__version__
    for record in (record for suite in content["suites"].values() for record in suite["cases"]):
        assert record["rounds"] == 3
        assert record["ours"]["seconds"]["median"] > 0
        assert all(peer["agrees"] and peer["speedup"]["median"] > 0 for peer in record["peers"].values())


@pytest.mark.usefixtures("_small")
def test_of_a_peer_that_differs_no_speedup_is_claimed(tmp_path, capsys, monkeypatch):
    right = peers.TimmForm.forward
    monkeypatch.setattr(peers.TimmForm, "forward", lambda self, x: 1.001 * right(self, x))
    output = tmp_path / "results.json"
    arguments = ["--suite", "attention", "--quick", "--only", "CBAM", "--output", str(output)]
    assert run.main(arguments) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "timm's form differs values 1.0e-03" in shown
    assert "A peer differs from ours by more than rounding" in shown
    record = load(output)["suites"]["attention"]["cases"][0]
    wrong = record["peers"]["timm's form"]
    assert wrong["agrees"] is False
    assert not {"speedup", "seconds", "memory"} & set(wrong)
    assert record["peers"]["official form"]["speedup"]["median"] > 0


@pytest.mark.usefixtures("_small")
def test_a_look_and_an_interrupted_run_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    assert run.main(["--suite", "lmim", "--quick"]) == 0

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", interrupt)
    assert run.main(["--suite", "lmim"]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(capsys):
    assert run.main(["--device", "cuda"]) == 1
    assert capsys.readouterr().err == "error: run: --device cuda needs a GPU, got none. Use --device cpu.\n"


BROKEN = {
    '{"machine": ': "Expecting value: ",
    "[]": "a list",
    "[" * 100_000: "maximum recursion depth exceeded",
    '{"suites": {}}': "None as machine",
    '{"machine": {}, "suites": []}': "[] as suites",
}


@pytest.fixture
def _nothing_measured(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(run, "measure", refuse)


@pytest.mark.usefixtures("_small", "_nothing_measured")
def test_an_output_that_cannot_be_written_is_refused_before_measuring(tmp_path, capsys):
    path = tmp_path / "b.json"
    arguments = ["--suite", "lmim", "--quick", "--output"]
    for text, got in BROKEN.items():
        path.write_text(text)
        assert run.main([*arguments, str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: must contain results that run.py wrote, got {got}")
        assert error.count("\n") == 1
        assert path.read_text() == text
    path.write_text('{"machine": {"cpu": "b"}, "suites": {}}')
    assert run.main([*arguments, str(path)]) == 1
    assert "must contain results of this machine, " in capsys.readouterr().err
    assert prepared(Path(os.devnull), {"cpu": "b"})["suites"] == {}  # a device is written to, never read
    for output in (tmp_path, path / "c.json"):
        assert run.main([*arguments, str(output)]) == 1
        assert capsys.readouterr().err.startswith("error: run: files must be readable and outputs writable, got ")


@pytest.mark.usefixtures("_small", "_nothing_measured")
def test_a_choice_without_a_case_is_refused(capsys):
    assert run.main(["--only", "zzz"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "error: run: --only must be part of the label of a case to measure, got 'zzz'. Give "
    )
    assert not captured.out


@pytest.mark.usefixtures("_small")
def test_results_are_written_even_if_printing_fails(tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(run, "measure", lambda *_, **__: record("(1)", 2.0))
    monkeypatch.setattr(run, "table", fail)
    assert run.main(["--suite", "lmim", "--quick", "--output", str(tmp_path / "b.json")]) == 1
    assert "got no space left" in capsys.readouterr().err
    assert load(tmp_path / "b.json")["suites"]["lmim"]["cases"]


def test_results_of_a_suite_take_the_place_of_its_last_ones(tmp_path):
    path = tmp_path / "results" / "machine.json"
    merge(path, {"cpu": "a"}, {"date": 1}, "attention", [1])
    merge(path, {"cpu": "a"}, {"date": 1}, "lmim", [2])
    merge(path, {"cpu": "a"}, {"date": 2}, "attention", [3])
    suites = {"attention": {"run": {"date": 2}, "cases": [3]}, "lmim": {"run": {"date": 1}, "cases": [2]}}
    assert load(path) == {"machine": {"cpu": "a"}, "suites": suites}
    with pytest.raises(RecordError, match=r"must contain results of this machine, .*'b'.*, got those of .*'a'"):
        merge(path, {"cpu": "b"}, {}, "lmim", [])
    assert load(path)["suites"] == suites
    assert list(path.parent.iterdir()) == [path]


def quartiles(median: float) -> dict[str, float]:
    return {"low": median - 0.5, "median": median, "high": median + 0.5}


def record(size: str, faster: float, compiled: bool = False) -> dict:
    memories = [{"before": 100.0, "peak": peak, "method": "VmHWM"} for peak in (110.0, 130.0)]
    return {
        "subject": "CBAM",
        "size": size,
        "pass": "forward + backward",
        "compiled": compiled,
        "dtype": "float32",
        "rounds": 15,
        "ours": {"seconds": quartiles(1), "memory": memories[0]},
        "peers": {
            "by hand": {"agrees": True, "seconds": quartiles(2), "speedup": quartiles(faster), "memory": memories[1]},
            "wrong": {"agrees": False, "differences": {"values": 0.25, "gradients": 0.5}},
        },
        "floor": {"name": "copies", "times": 2.5, "seconds": quartiles(0.75), "share": quartiles(0.75)},
    }


@pytest.fixture
def contents() -> dict:
    machine = {"cpu": "Abacus", "cores": 2, "threads": 2, "caches": {"L2": "1024K"}}
    circumstances = {"date": "today", "commit": "abc", "dirty": False, "load": 0.1, "versions": {"torch": "2"}}
    cases = [record("(1)", 2.0), record("(2)", 0.75), record("(2)", 9.0, compiled=True)]
    suites = {"attention": {"run": circumstances, "cases": cases}}
    return {Path("abacus.json"): {"machine": machine, "suites": suites}}


def test_the_short_table_gives_the_range_over_sizes_and_machines_of_eager_steps(contents):
    lines = draw.short_tables(contents).splitlines()
    assert lines[0] == "Measured on Abacus, 2 threads."
    assert "| CBAM, forward + backward | by hand | 0.75 to 2.00 | 3.0 |" in lines
    assert lines[-1] == "![Times faster than the peers: Abacus, 2 threads](../benchmarks/results/abacus.svg)"
    assert "9.00" not in draw.short_tables(contents)
    machine = {"cpu": "Abacus", "family": "26", "model": "2", "threads": 2}
    slower = {Path("b.json"): {"machine": machine, "suites": {"attention": {"cases": [record("(1)", 0.5)]}}}}
    lines = draw.short_tables(contents | slower).splitlines()
    assert lines[0] == "Measured on Abacus, 2 threads; Abacus (family 26, model 2), 2 threads."
    assert "| CBAM, forward + backward | by hand | 0.50 to 2.00 | 3.0 |" in lines


def test_the_sentence_gives_the_worst_and_the_best_first_to_last(contents):
    assert draw.sentence(contents).endswith("best: 0.75 to 2.00 in training.")
    (content,) = contents.values()
    slower = {Path("b.json"): content | {"suites": {"attention": {"cases": [record("(1)", 0.5)]}}}}
    kept = slower[Path("b.json")] | {"machine": content["machine"] | {"allocator": "MALLOC_MMAP_MAX_=0"}}
    written = draw.sentence(contents | slower | {Path("c.json"): kept})
    assert written.startswith("Measured on 1 machine, ")
    assert written.endswith("best: 0.50 to 2.00 in training.")


def test_generations_that_share_a_name_have_files_of_their_own():
    machine = {"cpu": "Abacus", "family": "26", "model": "2", "threads": 2}
    assert name_of(machine) == "abacus-family-26-model-2-2-threads"
    assert name_of(machine | {"family": "25"}) != name_of(machine)
    assert name_of(machine | {"allocator": "MALLOC_MMAP_MAX_=0"}) == f"{name_of(machine)}-malloc-mmap-max-0"
    assert name_of(machine | {"gpu": "NVIDIA H100"}) == "nvidia-h100"
    assert name_of({"gpu": "显卡"}) == "0296a21a" != name_of({"gpu": "龙芯"})


def test_a_process_whose_allocator_is_set_is_another_machine(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    plain = machine(torch.device("cpu"))
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert machine(torch.device("cpu")) == plain | {"allocator": "LD_PRELOAD=libjemalloc.so MALLOC_MMAP_MAX_=0"}


def test_the_full_table_holds_every_contender(contents):
    page = draw.full_tables(contents)
    assert "cpu Abacus, cores 2, threads 2, L2 1024K." in page
    assert "| **CBAM (1)**, forward + backward, eager, 15 rounds |  |  |  |  |" in page
    assert "| by hand | 2000 [1500, 2500] | 2.00 [1.50, 2.50] | 30.0 (3.0x) | 130 |" in page
    assert "| wrong | differs | values 2.5e-01, gradients 5.0e-01 |  |  |" in page
    assert "| floor: copies x 2.5 | 750 [250, 1250] | share 0.75 [0.25, 1.25] |  |  |" in page


def test_memory_that_cannot_be_told_apart_gives_no_ratio(contents):
    for case in next(iter(contents.values()))["suites"]["attention"]["cases"]:
        case["ours"]["memory"]["peak"] = case["ours"]["memory"]["before"]
    assert "| CBAM, forward + backward | by hand | 0.75 to 2.00 |  |" in draw.short_tables(contents)
    assert "| 30.0 | 130 |" in draw.full_tables(contents)


def test_tables_stand_between_their_marks():
    page = "a\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nb"
    assert draw.marked(page, r"new \1" + "\n") == "a\n<!-- benchmark -->\nnew \\1\n<!-- /benchmark -->\nb"


def test_the_chart_is_the_same_for_the_same_results(contents, tmp_path):
    ((_, content),) = contents.items()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw.draw(tmp_path / name / "abacus.svg", content)
    first, second = ((tmp_path / name / "abacus.svg").read_text() for name in ("a", "b"))
    assert first == second
    assert "<svg" in first


def test_the_fastest_peer_is_one_that_agrees():
    case = record("(1)", 2.0)
    case["peers"] |= {
        "by another hand": {"agrees": True, "speedup": quartiles(1.25)},
        "less": {"speedup": quartiles(0.6)},
    }
    assert over_fastest(case) == 1.25


@pytest.mark.parametrize("arguments", [["--help"], ["results.json"], ["--only", "a"]])
def test_drawing_takes_no_arguments(arguments, monkeypatch):
    monkeypatch.setattr(draw, "all_results", lambda: pytest.fail("it was drawn"))
    with pytest.raises(SystemExit) as stopped:
        draw.main(arguments)
    assert stopped.value.code == (0 if arguments == ["--help"] else 2)


def test_nothing_is_drawn_without_results(monkeypatch, capsys):
    monkeypatch.setattr(draw, "all_results", dict)
    monkeypatch.setattr(draw, "pages", lambda _: pytest.fail("pages were written"))
    assert draw.main([]) == 1
    assert f"{draw.RESULTS}: must contain results that run.py wrote, got none. Restore" in capsys.readouterr().err


def test_results_that_cannot_be_drawn_are_named(contents, tmp_path, monkeypatch, capsys):
    path = tmp_path / "abacus.json"
    monkeypatch.setattr(draw, "ROOT", tmp_path)  # of the pages
    for name in ("README.md", "docs/speed.md", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("<!-- benchmark -->\n<!-- /benchmark -->\n")
    ((_, whole),) = contents.items()
    damaged = {'{"machine": {}, "suites": {}}': "KeyError('cpu')"}
    damaged |= {json.dumps(whole | {"suites": {"lmim": {"run": {}, "cases": [1]}}}): "TypeError("}
    damaged |= {json.dumps(whole | {"suites": {}}): "ValueError('no case')"}
    monkeypatch.setattr(draw, "all_results", lambda: {path: load(path)})
    for text, got in (BROKEN | damaged).items():
        path.write_text(text)
        assert draw.main([]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: must contain results that run.py wrote, got {got}")
        assert error.count("\n") == 1
    assert not path.with_suffix(".svg").exists()
    path.write_text(json.dumps(whole))
    assert draw.main([]) == 0
    assert path.with_suffix(".svg").exists()
    assert "| CBAM, forward + backward | by hand |" in (tmp_path / "docs" / "speed.md").read_text()


def test_the_pages_hold_the_tables_of_the_results():
    for path, page in draw.pages(draw.all_results()).items():
        assert path.read_text(encoding="utf-8") == page, f"{path} is not what python benchmarks/draw.py writes"
        assert "<!-- benchmark -->" in page
