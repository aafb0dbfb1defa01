"""Eight virtual CPU devices for every test, so that one process can compare one device with many."""

import atexit
import contextlib
import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Shared with the runs that tests start as processes of their own, so that each program is compiled once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxrobust-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most programs of tests run for less time than it takes to optimise them. XLA's older emitters of kernels compile in a
# third of the time, and one module to a program in less than 32. Flags of XLA are no API, and an unknown one ends the
# process, so they are set for versions that they were tried with. With JAX_DISABLE_MOST_OPTIMIZATIONS=0 all tests run
# on programs as users have them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    # A process of pytest-xdist is given them.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").removesuffix(QUICK) + QUICK

import jax
import pytest

from jaxrobust.runs.tensorboard import Writer

# Not to be taken for a task of the cluster that runs the tests.
for name in ("SLURM_NTASKS", "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"):
    os.environ.pop(name, None)

# What has been imported is no garbage, and to look through it again and again takes up to a tenth of the time.
gc.freeze()
gc.set_threshold(20_000, 20, 20)

jax.config.update("jax_num_cpu_devices", 8)
# Broadcasts between ranks are written out, so that a wrong shape is an error and not a larger array.
jax.config.update("jax_numpy_rank_promotion", "raise")

# In this order: of two processes that share the files, neither should be left with one of these at the end.
LONGEST_FILES = (
    "test_hosts",
    "test_train",
    "test_study",
    "test_remedies",
    "test_train_steps",
    "test_fit",
    "test_studies_processes",
    "test_explain",
    "test_gaussians_remedies",
    "test_benchmark",
    "test_audit",
    "test_library",
    "test_ties",
    "test_study_gaussians",
    "test_study_probing",
    "test_malformed",
)

# What these check depends on how programs are compiled: costs and compiled text, or what different programs have in
# common to the last bit. For single tests there is the fixture `optimised`.
OPTIMISED_FILES = (
    "test_hlo",
    "test_measuring",
    "test_benchmark",
    "test_preflight",
    "test_overfitting",
    "test_attacks_hyperplane",
    "test_data_augment",
)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well: kills, several processes")


def pytest_collection_modifyitems(config, items):
    """Tests marked slow only with --slow; the files that take longest come first."""
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
    order = {name: i for i, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@contextlib.contextmanager
def all_optimisations():
    """Also in the processes that are started meanwhile."""
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        jax.config.update("jax_disable_most_optimizations", False)
        jax.clear_caches()  # of what has been compiled without
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def optimised():
    """For a test whose outcome a rounding decides."""
    with all_optimisations():
        yield


@pytest.fixture(scope="module", autouse=True)
def optimised_files(request):
    with all_optimisations() if request.path.stem in OPTIMISED_FILES else contextlib.nullcontext():
        yield


DRAW = Writer.figures


@pytest.fixture(scope="session", autouse=True)
def nothing_drawn_for_tensorboard():
    """Its figures take longer than many a run here. Runs in processes of their own draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "figures", lambda *_: None)
        yield


@pytest.fixture
def drawn_for_tensorboard(monkeypatch):
    monkeypatch.setattr(Writer, "figures", DRAW)


@pytest.fixture(scope="session")
def prepared_sets(tmp_path_factory):
    """Folder of the sets of streamed_sets.py; do not change it."""
    import streamed_sets  # here: it imports TensorFlow, which most tests do without

    folder = tmp_path_factory.mktemp("prepared")
    streamed_sets.prepare(folder)
    return folder


@pytest.fixture
def folder(prepared_sets, tmp_path, monkeypatch):
    """A copy of it for one test, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return pathlib.Path(shutil.copytree(prepared_sets, tmp_path / "sets"))
