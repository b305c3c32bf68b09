"""vLLM over Ray: a RayCluster that its schema accepts, fenced, asked by the server in front."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from freehold.deploy.order import Cluster, Order, Target
from freehold.domain.errors import InvalidSetting
from freehold.domain.setting_table import KNOWN
from freehold.domain.settings import Settings, resolve
from tests.support import manifests, orders
from tests.support.command import freehold
from tests.support.orders import SECRET, written

PLAIN = Settings(home=Path("/somewhere"))
TWO = Cluster(model="big:70b", image="vllm-ray:1", tensor=4, pipeline=2, gpus=4)
ORDER = Order(dataclasses.replace(PLAIN, context=16384, parallel=64), cluster=TWO)
slowly = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def of_kind(kind: str, file: str = "ray.yaml", order: Order = ORDER) -> list[Any]:
    documents = manifests.read(written(Target.KUBERNETES, order)[file])
    return [each for each in documents if each["kind"] == kind]


@given(order=orders.orders(cluster=True), version=st.sampled_from(manifests.VERSIONS))
@slowly
def test_the_schemas_accept_it_and_no_secret_is_in_it(order: Order, version: str) -> None:
    assert order.cluster is not None
    assume(order.cluster.model not in order.settings.aliases)
    files = written(Target.KUBERNETES, order)
    assert SECRET not in "".join(files.values())
    for document in manifests.read(files["ray.yaml"]):
        manifests.judge(document, version)


def test_kuberay_accepts_it() -> None:
    judge = manifests.kuberay()
    if judge is None:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's definitions")
    for cluster in (TWO, Cluster(model="a:1", image="i", gpus=1)):
        (document,) = of_kind("RayCluster", order=dataclasses.replace(ORDER, cluster=cluster))
        judge.validate(document)
        document["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["immage"] = ""
        assert not judge.is_valid(document)


@given(cluster=orders.clusters())
@slowly
def test_every_gpu_is_there_once(cluster: Cluster) -> None:
    (document,) = of_kind("RayCluster", order=Order(PLAIN, cluster=cluster))
    spec = document["spec"]
    groups = [(1, spec["headGroupSpec"])]
    groups += [(each["replicas"], each) for each in spec["workerGroupSpecs"]]
    gpus = 0
    for count, group in groups:
        (container,) = group["template"]["spec"]["containers"]
        gpus += count * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert gpus == cluster.tensor * cluster.pipeline


def test_vllm_is_started_quiet_and_as_planned() -> None:
    (document,) = of_kind("RayCluster")
    (head,) = document["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    last = head["args"][0].splitlines()[-1]
    words = shlex.split(last)
    assert words[:4] == ["exec", "python3", "-m", "vllm.entrypoints.openai.api_server"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given["--tensor-parallel-size"] == "4"
    assert given["--pipeline-parallel-size"] == "2"
    assert given["--distributed-executor-backend"] == "ray"
    assert (given["--max-model-len"], given["--max-num-seqs"]) == ("16384", "64")
    groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        variables = {each["name"]: each.get("value") for each in container["env"]}
        assert variables["VLLM_NO_USAGE_STATS"] == "1"
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
        assert variables["HF_HUB_OFFLINE"] == "1"


def test_ray_is_reached_by_its_own_pods_and_vllm_by_the_server_in_front() -> None:
    everywhere, head = of_kind("NetworkPolicy")
    own = {"podSelector": {"matchLabels": {"ray.io/cluster": "freehold-ray"}}}
    assert everywhere["spec"]["podSelector"] == own["podSelector"]
    assert everywhere["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert everywhere["spec"]["ingress"] == [{"from": [own]}]
    assert everywhere["spec"]["egress"][0] == {"to": [own]}
    assert {port["port"] for port in everywhere["spec"]["egress"][1]["ports"]} == {53}
    assert head["spec"]["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "freehold"}}}],
            "ports": [{"protocol": "TCP", "port": 8000}],
        }
    ]
    (document,) = of_kind("RayCluster")
    assert document["spec"]["authOptions"] == {"mode": "token"}
    assert document["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"


def test_the_server_in_front_asks_it_as_an_upstream(tmp_path: Path) -> None:
    files = written(Target.KUBERNETES, ORDER)
    text = next(yaml.safe_load_all(files["freehold.yaml"]))["data"]["config.toml"]
    (service,) = of_kind("Service")
    table = tomllib.loads(text)["upstreams"]["big:70b"]
    assert table["urls"] == [f"http://{service['metadata']['name']}:8000/v1"]
    assert (table["context"], table["parallel"]) == (16384, 64)
    assert f"{table['key_variable']}=\n" in files["secrets.env.example"]
    if "upstreams" in KNOWN:
        file = tmp_path / "config.toml"
        file.write_text(text)
        assert "big:70b" in getattr(resolve(environ={}, file=file), "upstreams")  # noqa: B009


def test_a_name_is_given_once() -> None:
    taken = dataclasses.replace(PLAIN, aliases={"big:70b": "a:1"})
    with pytest.raises(InvalidSetting, match="already"):
        written(Target.KUBERNETES, Order(taken, cluster=TWO))


VLLM = ["--target", "kubernetes", "--engine", "vllm"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "compose", "--engine", "vllm", "a:1"], "is written for Kubernetes"),
        (VLLM, "one MODEL is named"),
        ([*VLLM, "hf:o/r:a.gguf"], "MODEL is its name"),
        ([*VLLM, "a:1"], "--vllm-image is missing"),
        ([*VLLM, "a:1", "--vllm-image", "i", "--weights", "/etc"], "--weights cannot be"),
        (
            [*VLLM, "a:1", "--vllm-image", "i", "--tensor-parallel", "6", "--gpus-per-node", "4"],
            "6 GPUs do not fill machines that have 4",
        ),
    ],
)
def test_what_does_not_add_up_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = freehold(tmp_path, "deploy", *arguments, "-o", "-")
    assert (done.status, done.out) == (2, "")
    assert said in done.err
