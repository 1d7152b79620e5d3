# SPDX-License-Identifier: Apache-2.0
"""What a profile of a step is made of: recorded activities of a GPU, and a real profile of the CPU."""

from __future__ import annotations

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401


def recorded() -> list:
    """A step on a GPU as CUPTI records it: times in microseconds, one id for a call and its work."""
    from support.profiling import Activity

    def call(name: str, start: float, id: int, us: float = 2) -> Activity:
        return Activity(name, False, start, start + us, id)

    def work(name: str, start: float, end: float, id: int) -> Activity:
        return Activity(name, True, start, end, id)

    return [
        call("cudaDeviceSynchronize", 0, 1),  # the profiler's own
        call("cudaLaunchKernel", 4, 2),  # before the step
        work("before", 6, 9, 2),
        call("cudaEventSynchronize", 10, 3),
        call("cudaLaunchKernel", 20, 4),
        call("cuLaunchKernelEx", 22, 5),
        work("gemm", 25, 35, 4),
        call("cudaMemsetAsync", 25, 6),
        work("softmax", 30, 42, 5),  # on another stream: 5 us at the same time as gemm
        work("Memset (Device)", 42, 43, 6),
        call("cudaMemcpyAsync", 44, 7),  # .item(): a copy, then a wait
        call("cudaStreamSynchronize", 47, 8, us=6),
        work("Memcpy DtoH (Device -> Pageable)", 48, 50, 7),
        call("cudaMemcpyAsync", 55, 9, us=7),  # to pageable memory without an explicit wait: it blocks
        work("Memcpy DtoH (Device -> Pageable)", 57, 59, 9),
        call("cudaMemcpyAsync", 63, 10),  # to pinned memory: it does not
        work("Memcpy DtoH (Device -> Pinned)", 64, 65, 10),
        call("cudaStreamWaitEvent", 65.5, 11),  # a stream waits, not the host
        call("cudaLaunchKernel", 66, 12),
        call("cudaEventSynchronize", 70, 13),
        work("gemm", 71, 81, 12),
        call("cudaDeviceSynchronize", 90, 14),  # the profiler's own
    ]


def test_profile_counts_the_step_and_not_what_surrounds_it() -> None:
    from support.profiling import bracketed, summarize

    found = summarize(bracketed(recorded()), wall_ms=0.07)
    # 25 .. 43, two copies of 2 us, one of 1 us, 71 .. 81
    assert found.busy_ms == pytest.approx((18 + 4 + 1 + 10) / 1e3)
    assert found.kernels == 3 and found.syncs == 2
    assert [entry[:2] for entry in found.longest[:3]] == [
        ("gemm", 2),
        ("softmax", 1),
        ("Memcpy DtoH (Device -> Pageable)", 2),
    ]
    assert found.longest[0][2] == pytest.approx(20)
    lines = found.table().splitlines()
    assert "busy 0.03 ms, 3 kernels, 2 syncs" in lines[0]
    gemm = next(line for line in lines if line.startswith("gemm"))
    assert gemm.split() == ["gemm", "2", "20.0", "60.6", "%"]


def test_ten_kernels_are_listed_longest_first() -> None:
    from support.profiling import Activity, summarize

    activities = [Activity(f"k{n}", True, 100.0 * n, 100.0 * n + n + 1, n) for n in range(15)]
    found = summarize(activities, wall_ms=1)
    assert [name for name, _, _ in found.longest] == [f"k{n}" for n in range(14, 4, -1)]
    assert found.kernels == 15 and found.syncs == 0


def test_profile_without_its_brackets_is_refused() -> None:
    from support.profiling import BRACKET, bracketed

    activities = [activity for activity in recorded() if activity.name != BRACKET]
    with pytest.raises(ValueError, match="found it 0 times"):
        bracketed(activities)


def test_activities_of_a_real_profile_are_read() -> None:
    from support.profiling import read_activities, summarize

    x = torch.randn(8, 8)
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded,
        torch.profiler.record_function("a range of the user"),
    ):
        torch.mm(x, x)
    found = read_activities(recorded.events())
    names = [activity.name for activity in found]
    assert "aten::mm" in names and "a range of the user" not in names
    assert all(a.end_us >= a.start_us and not a.on_device for a in found)
    assert [a.start_us for a in found] == sorted(a.start_us for a in found)
    assert summarize(found, 1.0).busy_ms is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_profile_on_a_cpu_has_its_wall_time_alone() -> None:
    from support.profiling import profile_step

    ran = []
    found = profile_step(lambda: ran.append(1))
    assert ran == [1] and found.wall_ms > 0
    assert found.busy_ms is None and found.kernels is None and found.syncs is None and found.longest == []
    assert "nothing ran on a GPU" in found.table()


@pytest.mark.needs_cuda
def test_profile_on_a_gpu_sees_kernels_and_waits() -> None:
    from support.profiling import profile_step

    x = torch.randn(512, 512, device="cuda")

    def step() -> None:
        (x @ x).sum().item()
        x.add(1)

    step()
    found = profile_step(step)
    assert found.syncs == 1
    assert found.kernels is not None and 3 <= found.kernels <= 8
    assert found.busy_ms is not None and 0 < found.busy_ms < found.wall_ms
    assert len(found.longest) >= 3
