"""The manifests under launch/k8s: every host is started, and an error is never repeated."""

import os
import subprocess

import pytest
import yaml
from launch_scripts import LAUNCH, write_program


def manifests(name):
    return [item for item in yaml.safe_load_all((LAUNCH / "k8s" / name).read_text()) if item]


@pytest.mark.parametrize("name", ["gpu_job.yaml", "tpu_job.yaml", "tpu_jobset.yaml"])
def test_manifests_start_every_host_and_never_repeat_an_error(name):
    *services, top = manifests(name)
    job = top["spec"] if top["kind"] == "Job" else top["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (trainer,) = pod["containers"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert pod["restartPolicy"] == "Never"  # a pod failure policy needs it
    assert rules["FailJob"]["onExitCodes"] == {"containerName": trainer["name"], "operator": "In", "values": [1, 2]}
    workdir = next(value for value in trainer["args"] if value.startswith("--workdir="))
    assert any(workdir.startswith(f"--workdir={mount['mountPath']}/") for mount in trainer["volumeMounts"])
    assert {mount["name"] for mount in trainer["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    environment = {variable["name"]: variable["value"] for variable in trainer["env"]}
    if name == "gpu_job.yaml":  # Cloud TPU tells its hosts by itself
        assert environment["JAX_NUM_PROCESSES"] == str(job["completions"])
        address = "{0}-0.{0}:{1}".format(top["metadata"]["name"], services[0]["spec"]["ports"][0]["port"])
        assert environment["JAX_COORDINATOR_ADDRESS"] == address
    for service in services:  # one name in all places
        assert service["spec"]["clusterIP"] == "None"
        assert service["metadata"]["name"] == top["metadata"]["name"] == pod["subdomain"]
        assert set(service["spec"]["selector"].values()) == {top["metadata"]["name"]}


def test_pods_of_a_study_train_its_parts_and_a_failed_run_ends_no_other(tmp_path):
    (top,) = manifests("study_job.yaml")
    job, pod = top["spec"], top["spec"]["template"]["spec"]
    (trainer,) = pod["containers"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] <= job["completions"]
    assert "backoffLimit" not in job and pod["restartPolicy"] == "Never"  # FailIndex needs both
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"][:-1]}
    assert codes == {"FailJob": [2], "FailIndex": [1]}
    environment = {variable["name"]: variable["value"] for variable in trainer["env"]}
    assert environment["SHARDS"] == str(job["completions"])
    # As the pod of the last index would call it.
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(job["completions"] - 1)}
    write_program(tmp_path / "python", 'printf "%s\\n" "$@"\n')
    command = [*trainer["command"], *trainer["args"]]
    called = subprocess.run(command, env={**os.environ, **environment, **path}, capture_output=True, text=True).stdout
    assert called.splitlines() == ["-m", "jaxrobust", "study", *trainer["args"], "--shard=8/8"]

    (page,) = manifests("study_page.yaml")
    (summary,) = page["spec"]["template"]["spec"]["containers"]
    assert summary["command"] == ["python", "-m", "jaxrobust", "study"]
    assert summary["args"] == [*trainer["args"], "--summarise"]
    assert summary["image"] == trainer["image"] and summary["volumeMounts"] == trainer["volumeMounts"]
    assert page["spec"]["template"]["spec"]["volumes"] == pod["volumes"]
