"""What the paper's training costs, on paper."""

import dataclasses

import pytest

from infra import on_paper
from infra.on_paper import Device, Plan, Work

WORK = Work(flops=1e12, gradients=2e9, images=4800, batch=48, micro_batch=8, loader_threads=4)
DEVICE = Device("one", tflops=100, memory=1000, link=100, per_node=8, network=800, dollars=2.0)


def plan(gpus: int, batch: int = 48, **changes: float) -> Plan:
    return Plan(dataclasses.replace(WORK, **changes), DEVICE, gpus, batch, DEVICE.network, utilisation=0.5)


def test_one_gpu_computes_and_sends_nothing() -> None:
    one = plan(1)
    assert one.compute == pytest.approx(48 * 1e12 / 50e12)
    assert (one.in_node, one.between_nodes, one.waited, one.share_reducing) == (0, 0, 0, 0)
    assert one.update == pytest.approx(13 * 2e9 / 1000e9)
    assert one.images_a_second == pytest.approx(48 / (48 / 50 + 0.026))
    assert one.hours == pytest.approx(4800 / one.images_a_second / 3600)
    assert one.dollars == pytest.approx(2 * one.hours)
    assert one.breaks_first.startswith("none")


def test_a_node_sends_each_gradient_nearly_twice() -> None:
    eight = plan(8)
    assert eight.in_node == pytest.approx(2 * 7 / 8 * 2e9 / 100e9)
    assert eight.between_nodes == 0
    # 6 images each: one micro-batch, whose backward pass of 80 ms hides the 35 ms.
    assert eight.hideable == pytest.approx(2 / 3 * 6 / 50)
    assert eight.waited == 0
    assert eight.images_a_second == pytest.approx(48 / (6 / 50 + 0.026))


def test_accumulation_leaves_the_last_micro_batch_to_hide_behind() -> None:
    assert plan(1).hideable == pytest.approx(plan(1).compute * 2 / 3 / 6)


def test_no_more_gpus_are_busy_than_the_batch_has_images() -> None:
    most = plan(64)
    assert (most.busy, most.images_each) == (48, 1)
    assert most.between_nodes == pytest.approx(2 * 5 / 6 * 2e9 / 100e9), "six nodes of eight are in the ring"
    assert most.waited == pytest.approx(most.in_node + most.between_nodes - 2 / 3 / 50)
    assert most.dollars == pytest.approx(64 * 2 * most.hours), "idle GPUs are paid for"
    assert plan(64, batch=512).busy == 64


def test_the_slowest_worker_sets_the_pace() -> None:
    assert plan(7).images_each == 7
    assert plan(7).compute == plan(8, batch=56).compute


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        (plan(48), "batch"),
        (plan(8, batch=64, gradients=7e9), "all-reduce"),
        (plan(1, flops=1e11, gradients=1e10), "update"),
        (plan(8, batch=64, flops=1e9, gradients=1e6), "loader"),
    ],
)
def test_what_breaks_first_follows_from_the_numbers(changed: Plan, first: str) -> None:
    assert changed.breaks_first.startswith(first)
    assert max(changed.strains().values()) > 1


def test_the_readme_holds_what_the_program_prints() -> None:
    printed = on_paper.report(on_paper.the_paper_s())
    assert on_paper.in_readme(on_paper.README.read_text()) == printed, "run `make on-paper`"


def test_a_readme_without_its_markers_is_refused() -> None:
    for text in ("", on_paper.BEGIN, on_paper.END + on_paper.BEGIN, 2 * (on_paper.BEGIN + on_paper.END)):
        with pytest.raises(ValueError, match="once each"):
            on_paper.in_readme(text)


def test_a_table_replaces_the_one_before_and_nothing_else() -> None:
    readme = f"before\n{on_paper.BEGIN}\n{on_paper.END}\nafter\n"
    once = on_paper.put(readme, "one")
    assert on_paper.in_readme(once) == "one"
    assert on_paper.put(on_paper.put(readme, "another"), "one") == once
    assert once.startswith("before\n") and once.endswith("\nafter\n")
