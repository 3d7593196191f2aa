"""Forks, thread limits, floating-point control, imports: how the library behaves in a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cnncore as cnn
from cnncore import _core, levels, system

TRAIN = """
    import os, sys
    import numpy as np
    import cnncore as cnn
    x, y = np.random.RandomState(0).rand(256, 12, 12, 3), np.arange(256) % 5
    net = [cnn.Conv2d(32, 3), cnn.ReLU(), cnn.Flatten(), cnn.Affine(5)]
    def train():
        model = cnn.Model(net, (12, 12, 3))
        cnn.Solver(model, (x, y), update=cnn.Adam(), batch_size=64, num_epochs=2).train()
        return model.digest()
"""


def run(script, *, prefix=(), timeout=120, **environment):
    """stdout of a script in a new process; its environment has no OMP_ or CNNCORE_ settings."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "CNNCORE_"))}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
        env={**clean, **environment}, timeout=timeout, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_training_works_in_a_forked_child():
    out = run(
        textwrap.dedent(TRAIN)
        + textwrap.dedent("""
        cnn.set_num_threads(2)
        before = train()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if train() == before else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert train() == before
        print("ok")
        """)
    )
    assert out == "ok"


def test_forking_while_another_thread_trains():
    out = run(
        textwrap.dedent(TRAIN)
        + textwrap.dedent("""
        import threading
        cnn.set_num_threads(2)
        worker = threading.Thread(target=lambda: [train() for _ in range(20)])
        worker.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                train()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        worker.join()
        print("ok")
        """)
    )
    assert out == "ok"


def test_default_threads_honour_affinity():
    processors = sorted(os.sched_getaffinity(0))
    script = "import cnncore as cnn; print(cnn.get_num_threads())"
    assert run(script) == str(min(len(processors), system.cgroup_quota() or len(processors)))
    prefix = (sys.executable, "-c",
              "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])});"
              "os.execv(sys.argv[2], sys.argv[2:])", str(processors[0]))  # fmt: skip
    assert run(script, prefix=prefix) == "1"


def test_default_threads_honour_omp_num_threads():
    script = "import cnncore as cnn; print(cnn.get_num_threads(), cnn.info()['threads_from'])"
    assert run(script, OMP_NUM_THREADS="1") == "1 OMP_NUM_THREADS"
    assert run("import cnncore as c; c.set_num_threads(5); print(c.get_num_threads())") == "5"
    limited = "import cnncore as c; c.set_num_threads(5); print(c.get_num_threads())"
    assert run(limited, OMP_THREAD_LIMIT="3") == "3"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n1:memory:/x",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/host/path",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_cgroup_quota(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert system.cgroup_quota(tmp_path) == quota


def test_a_quota_limits_the_default_but_not_a_request():
    before = system.cgroup_quota() or 0
    try:
        _core.set_quota(1)
        assert cnn.get_num_threads() == 1
        cnn.set_num_threads(2)
        assert cnn.get_num_threads() == 2
    finally:
        _core.set_threads(0)
        _core.set_quota(before)


def test_too_few_threads_to_be_had_is_no_catastrophe():
    """libgomp ends the process when it cannot create a thread; the team must be tried out first."""
    out = run(
        "import resource\n"
        + textwrap.dedent(TRAIN)
        + textwrap.dedent("""
        cnn.set_num_threads(200)
        used = int(open('/proc/self/statm').read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20), used + (400 << 20)))
        assert cnn.get_num_threads() < 200
        train()
        print("ok")
        """)
    )
    assert out == "ok"


def test_a_run_that_its_deadline_ends_leaves_no_thread_waiting():
    """Where no stage is dealt out, the first thread may be a step ahead of one that is still waking
    up, and find the deadline over there: both have to stop after the same step. Four threads of two
    processors wake up late."""
    out = run(
        """
        import numpy as np
        import cnncore as cnn
        x, y = np.random.RandomState(0).rand(8, 4), np.zeros(8, int)
        model = cnn.Model([cnn.Affine(3)], (4,))
        solver = cnn.Solver(model, update=cnn.SGD(0.1), batch_size=8)
        solver.step(x, y)
        runner = next(iter(solver._runners.values()))
        runner.bind({"data": x, "labels": y})
        steps = 2000
        sizes, rows, lr = np.full(steps, 8), np.tile(np.arange(8), steps), np.zeros(steps)
        results, taken = np.empty((steps, 1)), set()
        forward = [op.function for op in runner.program.plan.ops].index("forward", 1)
        for i in range(500):
            deadline = 4e-5 * (i % 50 + 1)
            done, status, _ = runner.tape.run(
                sizes, rows, lr, 1, 0, results, forward, forward + 1, 4, deadline
            )
            assert status == "ok"
            taken.add(done)
        print(len(taken) > 1, min(taken) < steps)
        """,
        timeout=60,
    )
    assert out == "True True"


def test_floating_point_control_is_left_as_it_was():
    """Importing and training must not turn on flush-to-zero for the rest of the process."""
    out = run(
        TRAIN.replace("import cnncore as cnn", "")
        .replace("    def train", "    import cnncore as cnn\n    def train")
        .replace("import os, sys", "assert 5e-324 * 1.0 > 0\n    import os, sys")
        .replace("    net =", "    import cnncore as cnn\n    net =")
        + textwrap.dedent("""
            from cnncore import _core
            before = _core.float_control()
            for threads in (1, 2):
                cnn.set_num_threads(threads)
                train()
                assert _core.float_control() == before
            assert 5e-324 * 1.0 > 0
            assert np.float64(5e-324) * np.ones(9)[0] > 0
            print("ok")
        """).replace("\n", "\n    ")
    )
    assert out == "ok"


def test_lowered_isa_from_the_environment():
    script = "import cnncore as cnn; print(cnn.info()['isa'])"
    for isa in levels.available():
        assert run(script, CNNCORE_ISA=isa) == isa
    bad = subprocess.run(
        [sys.executable, "-c", "import cnncore"], capture_output=True, text=True, cwd="/",
        env={**os.environ, "CNNCORE_ISA": "avx9000"},
    )  # fmt: skip
    assert bad.returncode != 0
    assert "avx9000" in bad.stderr
    assert "baseline" in bad.stderr


def test_info_says_what_matters():
    found = cnn.info()
    assert found["version"] == cnn.__version__
    assert found["isa"] == levels.available()[-1] or os.environ.get("CNNCORE_ISA")
    assert "gomp" in found["openmp"] or "omp" in found["openmp"]
    assert "-ffast-math" not in found["flags"]


def test_import_needs_numpy_alone_and_is_quick():
    script = """
        import sys, time
        import numpy
        start = time.thread_time()
        before = set(sys.modules)
        import cnncore
        seconds = time.thread_time() - start  # other threads and processes do not count
        outside = {m.partition('.')[0] for m in set(sys.modules) - before}
        outside -= set(sys.stdlib_module_names) | {'cnncore', 'numpy'}
        outside = {m for m in outside if not m.startswith(('_cython', 'cython_runtime'))}
        print(seconds, sorted(outside))
    """
    runs = [run(script).split(" ", 1) for _ in range(5)]
    assert {modules for _, modules in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.1


def test_the_source_folder_explains_itself(tmp_path):
    """Importing the checkout instead of the installed package says what to do."""
    package = tmp_path / "cnncore"
    package.mkdir()
    source = Path(cnn.__file__)
    (package / "__init__.py").write_text(source.read_text())
    done = subprocess.run(
        [sys.executable, "-c", "import cnncore"], capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert "pip install ." in done.stderr


def test_the_library_is_linked_without_fast_math_and_with_libgomp_shared():
    out = subprocess.run(["ldd", _core.__file__], capture_output=True, text=True, check=True).stdout
    assert re.search(r"lib(g|i)?omp", out)


def test_predicting_from_several_threads():
    out = run(
        textwrap.dedent(TRAIN)
        + textwrap.dedent("""
        from concurrent.futures import ThreadPoolExecutor
        model = cnn.Model(net, (12, 12, 3))
        want = model.scores(x).tobytes()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: model.scores(x).tobytes(), range(64)))
        assert set(found) == {want}
        print("ok")
        """)
    )
    assert out == "ok"
