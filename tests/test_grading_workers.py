"""The worker processes: hostile answers are decided, cost nobody else anything, and run nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rleif.grading import Grade, grade, grade_many, judge
from rleif.grading.pool import Reply, WorkerPool, shared_pool

SLOW = r"\binom{10^9}{5\cdot10^8}"  # passes the limits, cannot be finished
DENIAL = [
    "9^{9^{9}}",
    "9^9^9",
    "10^{10^{10}}",
    "(10^9)!",
    "99999999!",
    "((((9!)!)!)!)!",
    SLOW,
    "(" * 3000 + "1" + ")" * 3000,
    "{" * 3000,
    "9" * 200_000,
    "0." + "3" * 200_000,
    r"\boxed{" * 500 + "5" + "}" * 500 + "1^{9^{9}}",
    r"\frac{1}{" * 200 + "2" + "}" * 200,
    r"\begin{pmatrix}" + r"1 & 2 \\ " * 5000 + r"\end{pmatrix}",
    r"\{" + ", ".join(map(str, range(20_000))) + r"\}",
    "x^{999999999}+1",
    "2^{1000}^{1000}",
    r"\sqrt{" * 100 + "2" + "}" * 100,
    "1e999999999",
    "1/" * 90 + "3",
]


@pytest.fixture
def pool():
    pool = WorkerPool(size=1)
    yield pool
    pool.close()


def test_hostile_answers_are_decided_and_the_others_keep_their_grades():
    good = [(rf"\sqrt{{{n * n}}}", str(n)) for n in range(2, 12)] + [("0.5", "1/2"), ("x+1", "1+x"), ("3", "4")]
    expected = [Grade.correct] * 12 + [Grade.wrong]
    solutions = [f"The answer is: {answer}" for answer in DENIAL + [answer for answer, _ in good]]
    grades = grade_many(solutions, ["7"] * len(DENIAL) + [gold for _, gold in good], timeout_s=0.5)
    assert set(grades[: len(DENIAL)]) <= {Grade.timeout, Grade.error, Grade.wrong}
    assert Grade.timeout in grades
    assert grades[len(DENIAL) :] == expected


def test_a_time_out_is_told_apart_and_the_next_answer_is_served():
    verdict = judge(f"The answer is: {SLOW}", "7", timeout_s=0.3)
    assert verdict.grade is Grade.timeout
    assert "CPU time" in verdict.detail
    assert grade(r"The answer is: \sqrt{49}", "7") is Grade.correct


def test_grading_works_from_threads_while_another_answer_hangs():
    grades: dict[int, Grade] = {}

    def work(n: int):
        grades[n] = grade(SLOW, "7", timeout_s=0.5) if n == 0 else grade(rf"\sqrt{{{n * n}}}", str(n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == {0: Grade.timeout, **dict.fromkeys(range(1, 6), Grade.correct)}


def test_grading_works_under_asyncio_on_the_loop_and_off_it():
    async def work() -> list[Grade]:
        others = [asyncio.to_thread(grade, r"\sqrt{9}", "3") for _ in range(3)]
        return [grade(r"\sqrt{4}", "2"), *await asyncio.gather(*others)]

    assert asyncio.run(work()) == [Grade.correct] * 4


SCRIPT = r"""
import json, os, signal
from rleif.grading import grade
from rleif.grading.pool import shared_pool

first = grade(r"\sqrt{4}", "2")            # no main guard here, and a worker alive before the fork
pids = [worker._process.pid for worker in shared_pool()._all]
read, write = os.pipe()
signal.alarm(300)                          # a deadlock ends the test
shared_pool()._lock.acquire()              # as another thread may hold it at this moment
child = os.fork()
if child == 0:
    signal.alarm(300)
    in_child = [grade(r"\sqrt{9}", "3"), grade(r"\binom{10^9}{5\cdot10^8}", "7", timeout_s=0.3)]
    own = [worker._process.pid for worker in shared_pool()._all]
    os.write(write, json.dumps([in_child, own]).encode())
    os._exit(0)
shared_pool()._lock.release()
in_child, child_pids = json.loads(os.read(read, 10000))
os.waitpid(child, 0)
after = grade(r"\sqrt{16}", "4")           # the child left the parent's worker alone
same = pids == [worker._process.pid for worker in shared_pool()._all]
print(json.dumps([first, in_child, after, same, pids + child_pids]))
"""


def test_a_script_without_main_guard_can_fork_and_leaves_no_process_behind():
    run = subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    first, in_child, after, same, pids = json.loads(run.stdout)
    assert (first, in_child, after, same) == ("correct", ["correct", "timeout"], "correct", True)
    for _ in range(200):  # the forked child's worker ends by itself when its input closes
        alive = [pid for pid in pids if is_running(pid)]
        if not alive:
            break
        time.sleep(0.05)
    assert alive == []


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie of the child that has ended is init's to reap


def test_a_killed_worker_is_reaped_and_replaced(pool: WorkerPool):
    assert pool.compare("2", r"\sqrt{4}", 5.0).outcome == "equal"
    (worker,) = pool._all
    pid = worker._process.pid
    assert pool.compare("7", SLOW, 0.2).outcome == "timeout"
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # already reaped: no zombie
    assert pool.compare("2", r"\sqrt{4}", 5.0).outcome == "equal"
    assert worker not in pool._all


def test_a_worker_killed_while_idle_costs_no_answer(pool: WorkerPool):
    assert pool.compare("2", r"\sqrt{4}", 5.0).outcome == "equal"
    (worker,) = pool._all
    os.kill(worker._process.pid, signal.SIGKILL)
    assert pool.compare("3", r"\sqrt{9}", 5.0).outcome == "equal"


def test_a_worker_that_dies_over_an_answer_is_an_error_not_a_time_out(pool: WorkerPool, monkeypatch):
    assert pool.compare("2", r"\sqrt{4}", 5.0).outcome == "equal"
    (worker,) = pool._all
    killer = threading.Timer(0.3, os.kill, (worker._process.pid, signal.SIGKILL))
    killer.start()
    reply = worker.compare("7", SLOW, 60.0)
    killer.join()
    assert reply == Reply(outcome="died", detail="the worker ended with code -9")
    monkeypatch.setattr(type(worker), "compare", lambda *_: reply)  # the successor dies of it too
    assert pool.compare("7", SLOW, 60.0) == Reply(outcome="error", detail="the worker ended with code -9")


def test_an_answer_that_needs_too_much_memory_is_an_error_and_the_worker_retires():
    code = """
import sys
import rleif.grading.worker as worker
worker.compare = lambda gold, answer: {"outcome": "equal", "detail": ""} if gold != "7" else bytearray(2 << 30)
sys.exit(worker.main())
"""
    request = '{"gold": "7", "answer": "", "timeout_s": 20}\n'
    run = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, text=True)
    replies = [json.loads(line) for line in run.stdout.splitlines()]
    assert [reply["outcome"] for reply in replies] == ["ready", "error"]
    assert replies[1]["detail"].startswith("MemoryError")
    assert run.returncode == 1


def test_the_wall_limit_ends_a_worker_that_uses_no_cpu(pool: WorkerPool):
    assert pool.compare("2", r"\sqrt{4}", 5.0).outcome == "equal"
    (worker,) = pool._all
    os.kill(worker._process.pid, signal.SIGSTOP)
    assert pool.compare("2", r"\sqrt{4}", 0.05).outcome == "timeout"
    with pytest.raises(ChildProcessError):
        os.waitpid(worker._process.pid, os.WNOHANG)
    assert pool.compare("2", r"\sqrt{4}", 5.0).outcome == "equal"


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs /proc")
def test_a_worker_is_limited_in_memory_and_sees_no_secret(pool: WorkerPool, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "s3cret")
    pool.compare("2", r"\sqrt{4}", 5.0)
    (worker,) = pool._all
    limits = Path(f"/proc/{worker._process.pid}/limits").read_text()
    assert "1073741824" in next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert b"s3cret" not in Path(f"/proc/{worker._process.pid}/environ").read_bytes()


def injections(marker: Path) -> list[str]:
    write = f"open({str(marker)!r},'w')"
    return [
        f"__import__('os').system('touch {marker}')",
        f"__import__('pathlib').Path({str(marker)!r}).touch()",
        write,
        f"eval({write!r})",
        f"exec({write!r})",
        f"(lambda: {write})()",
        f"[{write} for _ in [0]][0]",
        f"f'{{{write}}}'",
        f"{{{write}}}",
        f"().__class__.__base__.__subclasses__()[0].__init__.__globals__['__builtins__'].{write}",
        f"sympify({write!r})",
        f"lambdify([], {write!r})()",
        rf"\input{{{marker}}}",
        rf"\write18{{touch {marker}}}",
        rf"\immediate\write18{{touch {marker}}}",
        rf"\openout1={marker}",
        f"$(touch {marker})",
        f"`touch {marker}`",
        f"; touch {marker}",
        f"1 if {write} else 2",
        f"ｏｐｅｎ({str(marker)!r},'w')",
        f"5 + {write}",
        f"x={write}",
        rf"\text{{{write}}}",
        rf"\operatorname{{{write}}}",
        f"{{{{ {write} }}}}",
        f"!!python/object/apply:os.system ['touch {marker}']",
    ]


def test_code_in_an_answer_is_never_run_and_later_grades_are_not_forged(tmp_path: Path):
    marker = tmp_path / "m"
    payloads = injections(marker)
    for template in ("The answer is: {}", r"\boxed{{{}}}", "#### {}", "{}"):
        grades = grade_many([template.format(payload) for payload in payloads], ["7"] * len(payloads))
        assert Grade.correct not in grades
        assert not marker.exists()
    for payload in payloads:  # past all filters, straight into the parser
        assert shared_pool().compare("7", payload, 5.0).outcome != "equal"
        assert not marker.exists()
    wrong = [(rf"\sqrt{{{n}}}", str(n)) for n in range(2, 22)]
    right = [(rf"\sqrt{{{n * n}}}", str(n)) for n in range(2, 22)]
    assert Grade.correct not in grade_many([a for a, _ in wrong], [g for _, g in wrong])
    assert grade_many([a for a, _ in right], [g for _, g in right]) == [Grade.correct] * 20


def test_the_worker_itself_refuses_to_start_programs_connect_or_write(tmp_path: Path):
    code = f"""
import os, socket, subprocess, sys
from rleif.grading.worker import _forbid
sys.addaudithook(_forbid)
refused = 0
for act in (
    lambda: os.system("true"),
    lambda: open({str(tmp_path / "x")!r}, "w"),
    lambda: subprocess.run(["true"]),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: os.fork(),
):
    try:
        act()
    except PermissionError:
        refused += 1
print(refused)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "5"


def test_a_missing_math_verify_is_loud(monkeypatch, tmp_path: Path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no math_verify here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = WorkerPool(size=1)
    with pytest.raises(RuntimeError, match="pip install math-verify"):
        pool.compare("2", r"\sqrt{4}", 5.0)
    assert pool._all == set()
