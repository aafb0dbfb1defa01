"""Eight virtual CPU devices for every test, so that one process can compare one device with many."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Shared with the runs that tests start as processes of their own, so that each program is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jaxrobust-tests-"))

import jax

jax.config.update("jax_num_cpu_devices", 8)
# Broadcasts between ranks are written out, so that a wrong shape is an error and not a larger array.
jax.config.update("jax_numpy_rank_promotion", "raise")
