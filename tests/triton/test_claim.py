from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.triton.claim import UNCLAIMED, Claim, ServerClaim
from videojob.triton.contract import ChunkError, ErrorCode


def test_the_newer_runner_has_the_claim_and_the_older_is_refused(tmp_path: Path) -> None:
    writer, stage = ServerClaim(tmp_path), ServerClaim(tmp_path)
    stage.check(0)
    assert writer.claim(Claim(3, "old")) == Claim(3, "old")
    assert writer.claim(Claim(4, "new")) == Claim(4, "new")
    assert writer.claim(Claim(3, "old")) == Claim(4, "new")

    stage.check(4)
    with pytest.raises(ChunkError, match="Another runner, new,") as refused:
        stage.check(3)
    assert refused.value.reason is ErrorCode.SUPERSEDED
    assert stage.superseded(3) and not stage.superseded(4)


def test_the_first_holder_of_a_lease_claims_a_new_server_at_once(tmp_path: Path) -> None:
    assert ServerClaim(tmp_path).claim(Claim(0, "first")) == Claim(0, "first")


def test_a_claim_number_belongs_to_one_runner(tmp_path: Path) -> None:
    claim = ServerClaim(tmp_path)
    claim.claim(Claim(3, "first"))

    assert claim.claim(Claim(3, "second")) == Claim(3, "first")
    assert claim.claim(Claim(3, "first")) == Claim(3, "first")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"number": 1, "more": 2}'])
def test_a_file_that_cannot_be_read_is_no_claim(tmp_path: Path, text: str) -> None:
    """Nothing but a power failure leaves one. Whoever holds the Lease claims again."""
    (tmp_path / "claim.json").write_text(text)

    assert ServerClaim(tmp_path).current() == UNCLAIMED
    assert ServerClaim(tmp_path).claim(Claim(1, "me")) == Claim(1, "me")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"))))
def test_claims_only_rise(tmp_path_factory: pytest.TempPathFactory, claims: list[tuple[int, str]]) -> None:
    claim = ServerClaim(tmp_path_factory.mktemp("control"))
    for number, identity in claims:
        before = claim.current()
        after = claim.claim(Claim(number, identity))
        assert after == claim.current()
        assert after.number >= before.number
        assert after.number > before.number or before == after
