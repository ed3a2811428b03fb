"""Tokens by which pods know the operator."""

from tunesmith_operator.routing.tokens import adapters_token, analysis_token, router_token


def test_every_deployment_and_purpose_has_a_token_of_its_own() -> None:
    made = [
        derive(key, uid)
        for derive in (router_token, analysis_token, adapters_token)
        for key in ("one", "other")
        for uid in ("1234", "5678")
    ]
    assert len(set(made)) == len(made)
    assert {len(token) for token in made} == {64}
    # The same after a restart: nothing is stored.
    assert analysis_token("one", "1234") == analysis_token("one", "1234")
