"""What a policy makes of a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.errors import InvalidSetting
from freehold.domain.sentences import Sentence
from freehold.trust.policy import (
    Action,
    Decision,
    Policy,
    permit,
    read_policy,
    require_known,
)
from freehold.trust.verdict import Ancestor, Lineage, Outcome, Ruling, Use, Verdict


def verdict(
    run: Outcome = Outcome.OK,
    serve: Outcome = Outcome.OK,
    *,
    licences: tuple[str, ...] = ("mit",),
    concluded: str | None = "MIT",
) -> Verdict:
    root = Ancestor("maker/model", None, None, True, None, (), ())
    return Verdict(
        "maker/model",
        Ruling(run, (Sentence("A reason."),), ()),
        Ruling(serve, (Sentence("Another."),), ()),
        None,
        concluded,
        Lineage(root, ()),
        (),
        licences,
    )


def policy(text: str, folder: Path) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return read_policy(path, required=True)


def action(rules: Policy, use: Use, said: Verdict, *decisions: Decision) -> Action:
    return permit(rules, use, "model:1b", said, decisions).action


@pytest.mark.parametrize(
    ("outcome", "run", "serve"),
    [
        (Outcome.OK, Action.ALLOW, Action.ALLOW),
        (Outcome.DUTIES, Action.ALLOW, Action.WARN),
        (Outcome.NON_COMMERCIAL, Action.WARN, Action.WARN),
        (Outcome.RESTRICTED, Action.WARN, Action.WARN),
        (Outcome.CONFLICT, Action.WARN, Action.REFUSE),
        (Outcome.UNKNOWN, Action.WARN, Action.REFUSE),
    ],
)
def test_the_default_warns_and_refuses_to_serve_what_is_unclear(
    outcome: Outcome, run: Action, serve: Action
) -> None:
    said = verdict(outcome, outcome)
    assert action(Policy(), Use.RUN, said) is run
    assert action(Policy(), Use.SERVE, said) is serve


def test_a_rule_for_the_model_goes_before_the_licence_and_that_before_the_verdict(
    tmp_path: Path,
) -> None:
    rules = policy(
        """
        [serve.verdict]
        OK = "warn"
        [serve.licence]
        gemma = "refuse"
        [serve.model]
        "hf:maker/*" = "allow"
        """,
        tmp_path,
    )
    assert action(rules, Use.SERVE, verdict(licences=("gemma",))) is Action.ALLOW
    without = Policy(rules.run, type(rules.serve)({}, rules.serve.licence, rules.serve.verdict))
    assert action(without, Use.SERVE, verdict(licences=("gemma",))) is Action.REFUSE
    assert action(without, Use.SERVE, verdict()) is Action.WARN
    assert action(rules, Use.RUN, verdict(licences=("gemma",))) is Action.ALLOW


def test_the_strictest_of_several_licences_holds(tmp_path: Path) -> None:
    rules = policy('[run.licence]\nmit = "allow"\ngemma = "refuse"\nllama2 = "warn"\n', tmp_path)
    found = permit(rules, Use.RUN, "m:1", verdict(licences=("mit", "llama2", "gemma")))
    assert (found.action, found.rule) == (Action.REFUSE, "licence gemma")


def test_patterns_name_references_and_hub_names(tmp_path: Path) -> None:
    for pattern in ("model:*", "maker/model", "hf:maker/*"):
        rules = policy(f'[run.model]\n"{pattern}" = "refuse"\n', tmp_path)
        assert action(rules, Use.RUN, verdict()) is Action.REFUSE
    rules = policy('[run.model]\n"hf:Maker/*" = "refuse"\n', tmp_path)
    assert action(rules, Use.RUN, verdict()) is Action.ALLOW


def decision(use: Use, outcome: Outcome, concluded: str | None = "MIT") -> Decision:
    return Decision(use, outcome, concluded, "ada", "2026-11-24T10:00:00+00:00", "because")


def test_a_decision_answers_the_verdict_it_was_taken_on_and_no_other() -> None:
    said = verdict(Outcome.UNKNOWN, Outcome.CONFLICT)
    taken = decision(Use.SERVE, Outcome.CONFLICT)
    found = permit(Policy(), Use.SERVE, "model:1b", said, [taken])
    assert (found.action, found.decision) == (Action.ALLOW, taken)
    assert action(Policy(), Use.RUN, said, taken) is Action.WARN
    assert action(Policy(), Use.SERVE, verdict(serve=Outcome.UNKNOWN), taken) is Action.REFUSE
    other = verdict(serve=Outcome.CONFLICT, concluded="Apache-2.0")
    assert action(Policy(), Use.SERVE, other, taken) is Action.REFUSE


def test_a_decision_does_not_lift_a_rule_about_the_licence(tmp_path: Path) -> None:
    rules = policy('[serve.licence]\nmit = "refuse"\n', tmp_path)
    said = verdict(serve=Outcome.CONFLICT)
    assert action(rules, Use.SERVE, said, decision(Use.SERVE, Outcome.CONFLICT)) is Action.REFUSE


@pytest.mark.parametrize(
    "text",
    [
        "run = 3",
        "[fly.verdict]\nOK = 'allow'",
        "[run.verdict]\nFINE = 'allow'",
        "[run.verdict]\nOK = 'perhaps'",
        "[run.verdict",
        "\x00",
    ],
)
def test_a_wrong_policy_is_refused_with_its_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"policy\.toml"):
        policy(text, tmp_path)


def test_a_rule_for_a_licence_nobody_knows_is_refused(tmp_path: Path) -> None:
    rules = policy('[run.licence]\ngema = "refuse"\n', tmp_path)
    with pytest.raises(InvalidSetting, match="gema") as refused:
        require_known(rules, ["mit", "gemma"])
    assert "gemma" in (refused.value.hint or "")


def test_no_policy_file_is_the_default_unless_one_was_named(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "none.toml", required=False) == Policy()
    with pytest.raises(InvalidSetting, match="does not exist"):
        read_policy(tmp_path / "none.toml", required=True)
