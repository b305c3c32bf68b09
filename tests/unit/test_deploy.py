"""`freehold deploy`: manifests that their schemas accept, with every setting and no secret."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.deploy import toml_text
from freehold.deploy.carried import memory_limit
from freehold.deploy.order import Order, Proof, Target
from freehold.domain.errors import InvalidSetting
from freehold.domain.setting_table import SETTINGS
from freehold.domain.settings import Settings, resolve
from freehold.domain.upstreams import Upstream
from tests.support import manifests, orders
from tests.support.command import freehold
from tests.support.orders import SECRET, written

ROOT = Path(__file__).parents[2]
PLAIN = Settings(home=Path("/somewhere"))
slowly = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


CONFIGURATION = {Target.COMPOSE: "etc/config.toml", Target.SYSTEMD: "config.toml"}


def environment(target: Target, files: Mapping[str, str]) -> dict[str, str]:
    """What the manifest sets for the server, its secrets filled in."""
    found: dict[str, str] = {}
    if target is Target.COMPOSE:
        service = yaml.safe_load(files["compose.yaml"])["services"]["freehold"]
        found = {name: text.replace("$$", "$") for name, text in service["environment"].items()}
    if target is Target.KUBERNETES:
        *_, stateful = yaml.safe_load_all(files["freehold.yaml"])
        container = stateful["spec"]["template"]["spec"]["containers"][0]
        found = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {**found, **dict.fromkeys(secrets(files), "filled")}


def secrets(files: Mapping[str, str]) -> list[str]:
    return re.findall(r"(?m)^(\w+)=$", files.get("secrets.env.example", ""))


def configuration(target: Target, files: Mapping[str, str]) -> str:
    if target is not Target.KUBERNETES:
        return files[CONFIGURATION[target]]
    text: str = next(yaml.safe_load_all(files["freehold.yaml"]))["data"]["config.toml"]
    return text


def expected(target: Target, order: Order) -> Settings:
    """The settings as they should arrive: what the place decides, and secrets filled in."""
    given = order.settings
    changes: dict[str, Any] = {"policy": None if order.policy is None else Path(POLICY)}
    if target is not Target.SYSTEMD:
        changes |= {"home": Path("/data"), "host": "0.0.0.0"}
    for setting in SETTINGS:
        if setting.secret and getattr(given, setting.name) is not None:
            changes[setting.name] = "filled"
    if target is not Target.SYSTEMD or given.host not in ("127.0.0.1", "localhost", "::1"):
        changes["api_key"] = "filled"
    changes["upstreams"] = {
        name: dataclasses.replace(each, key=None if each.key_variable is None else "filled")
        for name, each in given.upstreams.items()
    }
    return dataclasses.replace(given, **changes)


POLICY = "/etc/freehold/policy.toml"


@pytest.mark.parametrize("target", Target)
@given(order=orders.orders())
@slowly
def test_what_is_resolved_there_is_what_was_resolved_here(
    target: Target, order: Order, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = written(target, order)
    file = tmp_path_factory.mktemp("there") / "config.toml"
    file.write_text(configuration(target, files), "utf-8")
    variables = environment(target, files)
    if target is Target.SYSTEMD:
        variables["FREEHOLD_HOME"] = str(order.settings.home)
    assert resolve(environ=variables, file=file) == expected(target, order)


@pytest.mark.parametrize("target", Target)
@given(order=orders.orders())
@slowly
def test_no_secret_is_written_and_each_file_says_what_it_has_proved(
    target: Target, order: Order
) -> None:
    files = written(target, order)
    assert SECRET not in "".join(files.values())
    for name, text in files.items():
        if not name.endswith("policy.toml"):  # the user's own
            top = " ".join(line.removeprefix("# ") for line in text.splitlines()[:5])
            assert any(proof in top for proof in Proof), name


@given(order=orders.orders())
@slowly
def test_compose_accepts_it(order: Order) -> None:
    (document,) = manifests.read(written(Target.COMPOSE, order)["compose.yaml"])
    manifests.compose().validate(document)


@given(order=orders.orders(), version=st.sampled_from(manifests.VERSIONS))
@slowly
def test_kubernetes_accepts_it(order: Order, version: str) -> None:
    for document in manifests.read(written(Target.KUBERNETES, order)["freehold.yaml"]):
        manifests.judge(document, version)


def test_the_schemas_refuse_what_is_no_manifest() -> None:
    (document,) = manifests.read(written(Target.COMPOSE, Order(PLAIN))["compose.yaml"])
    document["services"]["freehold"]["comand"] = []
    assert not manifests.compose().is_valid(document)
    *_, stateful = manifests.read(written(Target.KUBERNETES, Order(PLAIN))["freehold.yaml"])
    stateful["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsRoot"] = True
    with pytest.raises(Exception, match="runAsRoot"):
        manifests.judge(stateful)


def test_it_is_fenced() -> None:
    *_, fence, stateful = manifests.read(
        written(Target.KUBERNETES, Order(PLAIN, namespaces=("web",)))["freehold.yaml"]
    )
    pod = stateful["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    # Else Kubernetes sets FREEHOLD_PORT=tcp://… for a service of that name.
    assert not pod["enableServiceLinks"]
    assert not pod["automountServiceAccountToken"]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        fenced = container["securityContext"]
        assert fenced["readOnlyRootFilesystem"]
        assert not fenced["allowPrivilegeEscalation"]
        assert fenced["capabilities"] == {"drop": ["ALL"]}
    assert fence["spec"]["policyTypes"] == ["Ingress", "Egress"]
    near, web = fence["spec"]["ingress"][0]["from"]
    assert near == {"podSelector": {}}
    assert web["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "web"}


def test_offline_nothing_is_fetched_and_nothing_is_let_out() -> None:
    order = Order(dataclasses.replace(PLAIN, offline=True, pin=("b:1",)), models=("a:1",))
    *_, fence, stateful = manifests.read(written(Target.KUBERNETES, order)["freehold.yaml"])
    assert "initContainers" not in stateful["spec"]["template"]["spec"]
    ports = {port["port"] for rule in fence["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53}
    compose = manifests.read(written(Target.COMPOSE, order)["compose.yaml"])[0]
    assert list(compose["services"]) == ["freehold"]


def test_models_are_fetched_one_after_the_other_before_the_start() -> None:
    order = Order(dataclasses.replace(PLAIN, pin=("b:1", "a:1")), models=("a:1",))
    services = manifests.read(written(Target.COMPOSE, order)["compose.yaml"])[0]["services"]
    assert [service["command"] for service in services.values()] == [
        ["pull", "a:1"],
        ["pull", "b:1"],
        ["serve", "a:1"],
    ]
    assert list(services["freehold"]["depends_on"]) == ["fetch-2"]
    assert list(services["fetch-2"]["depends_on"]) == ["fetch-1"]


@pytest.mark.parametrize("budget", [1, 7, 1000, 12287, 12288, 12289, 100_000])
def test_the_memory_limit_leaves_the_models_their_budget(budget: int) -> None:
    limit = memory_limit(dataclasses.replace(PLAIN, memory_budget=budget))
    assert limit is not None
    # As `runtime.room` takes it from what a container has.
    assert budget <= limit - min(limit / 7, 2048) < budget + 2


@pytest.mark.parametrize("port", [0, 80, 1023])
@pytest.mark.parametrize("target", Target)
def test_a_port_that_cannot_be_had_is_refused(target: Target, port: int) -> None:
    with pytest.raises(InvalidSetting, match=f"port {port}"):
        written(target, Order(dataclasses.replace(PLAIN, port=port)))


def test_compose_publishes_on_the_address_that_is_listened_on() -> None:
    for host, address in (("localhost", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0")):
        order = Order(dataclasses.replace(PLAIN, host=host))
        service = manifests.read(written(Target.COMPOSE, order)["compose.yaml"])[0]["services"]
        assert service["freehold"]["ports"][0]["host_ip"] == address
    with pytest.raises(InvalidSetting, match="not on a name"):
        written(Target.COMPOSE, Order(dataclasses.replace(PLAIN, host="gpu.example")))


@given(st.recursive(st.text() | st.booleans() | st.integers(), st.lists))
def test_toml_is_read_back_as_it_was(value: Any) -> None:
    import tomllib

    try:
        text = toml_text.document({"a b": value, "t": {"": value, "x": {"y\n": value}}})
    except InvalidSetting:
        assert re.search("[\ud800-\udfff]", str(value)) or "\\ud" in repr(value)
        return
    assert tomllib.loads(text) == {"a b": value, "t": {"": value, "x": {"y\n": value}}}


# systemd


def test_the_unit_in_the_repository_is_the_one_that_is_written() -> None:
    unit = written(Target.SYSTEMD, Order(PLAIN))["freehold.service"]
    assert unit == (ROOT / "deploy" / "freehold.service").read_text("utf-8")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("gpus", [0, 1])
def test_systemd_has_no_complaint(tmp_path: Path, gpus: int) -> None:
    order = Order(
        dataclasses.replace(PLAIN, memory_budget=9000, host="0.0.0.0"),
        models=('hf:o/r:a "b" $HOME %h \\n.gguf',),
        program=sys.executable,
        gpus=gpus,
    )
    unit = tmp_path / "freehold.service"
    text = written(Target.SYSTEMD, order)["freehold.service"]
    # The page it names is in a checkout that is not here.
    unit.write_text(re.sub("(?m)^Documentation=.*\n", "", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "freehold" in line]
    assert (done.returncode, ours) == (0, [])


def test_words_of_a_command_are_kept_from_systemd() -> None:
    order = Order(PLAIN, models=("a:1", 'hf:o/r:a "b" $HOME %h.gguf'))
    unit = written(Target.SYSTEMD, order)["freehold.service"]
    assert r'serve a:1 "hf:o/r:a \"b\" $$HOME %%h.gguf"' in unit


# The command


@pytest.mark.parametrize("target", Target)
def test_a_real_process_reads_what_the_command_wrote(target: Target, tmp_path: Path) -> None:
    flags = [
        "--context",
        "4096",
        "--alias",
        "gpt-4o=qwen3:4b",
        "--pin",
        "qwen3:4b",
        "--no-speculate",
    ]
    flags += ["--keep-alive", "90", "--log-level", "info", "--memory-budget", "5000"]
    variables = {"FREEHOLD_API_KEY": f"{SECRET}1", "HF_TOKEN": f"{SECRET}2"}
    folder = tmp_path / "out"
    done = freehold(
        tmp_path, "deploy", "--target", target, "-o", str(folder), *flags, extra=variables
    )
    assert done.status == 0, done.err
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(done.out.split()) == sorted(map(str, paths))
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644}
    files = {str(path.relative_to(folder)): path.read_text("utf-8") for path in paths}
    assert SECRET not in "".join(files.values())

    there = tmp_path / "config.toml"
    there.write_text(configuration(target, files), "utf-8")
    variables = {**environment(target, files), "FREEHOLD_CONFIG": str(there)}
    told = freehold(tmp_path, "config", "--json", extra=variables).json
    assert {name: told[name]["value"] for name in ("context", "aliases", "pin", "speculate")} == {
        "context": 4096,
        "aliases": {"gpt-4o": "qwen3:4b"},
        "pin": ["qwen3:4b"],
        "speculate": False,
    }
    assert told["log_level"]["value"] == "info"
    assert told["keep_alive"]["value"] == "1m30s"
    assert told["api_key"]["value"] == told["hub_token"]["value"] == "(set)"


def test_nothing_is_replaced_unless_it_is_asked_for(tmp_path: Path) -> None:
    command = ("deploy", "--target", "systemd", "--output", str(tmp_path / "out"))
    assert freehold(tmp_path, *command).status == 0
    (tmp_path / "out" / "config.toml").write_text("mine")
    again = freehold(tmp_path, *command, "--context", "99")
    assert again.status == 2
    assert "config.toml already" in again.err
    assert (tmp_path / "out" / "config.toml").read_text() == "mine"
    assert freehold(tmp_path, *command, "--context", "99", "--force").status == 0
    assert "context = 99" in (tmp_path / "out" / "config.toml").read_text()


def test_on_stdout_and_as_json(tmp_path: Path) -> None:
    told = freehold(tmp_path, "deploy", "--target", "kubernetes", "-o", "-")
    assert [each["kind"] for each in manifests.read(told.out)] == [
        *("ConfigMap", "Service", "NetworkPolicy", "StatefulSet"),
    ]
    files = freehold(tmp_path, "deploy", "--target", "compose", "--json").json["files"]
    assert sorted(files) == ["compose.yaml", "etc/config.toml", "secrets.env.example"]
    assert not (tmp_path / "freehold-compose").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "systemd", "./file.gguf"], "is a file of this machine"),
        (["--target", "compose", "--storage", "lots"], "--storage cannot be"),
        (["--target", "kubernetes", "--namespace", "No"], "--namespace cannot be"),
        (["--target", "compose", "--policy", "/nowhere/policy.toml"], "does not exist"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = freehold(tmp_path, "deploy", *arguments, "-o", str(tmp_path / "out"))
    assert done.status == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_the_policy_goes_along(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text('[serve.verdict]\nUNKNOWN = "warn"\n')
    done = freehold(
        *(tmp_path, "deploy", "--target", "kubernetes", "--policy", str(policy), "--json")
    )
    text = json.loads(done.out)["files"]["freehold.yaml"]
    data = next(yaml.safe_load_all(text))["data"]
    assert data["policy.toml"] == policy.read_text()
    assert f'policy = "{POLICY}"' in data["config.toml"]


@pytest.mark.parametrize("target", [Target.COMPOSE, Target.KUBERNETES])
def test_what_a_container_does_not_have_is_refused(target: Target) -> None:
    near = Upstream("near", ("http://localhost:8000/v1",), "near")
    for asked, word in (
        (dataclasses.replace(PLAIN, vllm=("qwen3:4b",)), "vLLM"),
        (dataclasses.replace(PLAIN, upstreams={"near": near}), "loopback"),
    ):
        with pytest.raises(InvalidSetting, match=word):
            written(target, Order(asked))
        assert written(Target.SYSTEMD, Order(asked))
