"""HOST:PORT as people write it."""

from __future__ import annotations

import pytest

from pipeline.addresses import Address, address_of


@pytest.mark.parametrize(
    ("text", "port", "found"),
    [
        ("one:9093", None, Address("one", 9093)),
        ("[::1]:6379", None, Address("::1", 6379)),
        ("::1", 9092, Address("::1", 9092)),
        ("[::1]", 9092, Address("::1", 9092)),
        (" one ", 9092, Address("one", 9092)),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, port: int | None, found: Address) -> None:
    assert address_of(text, port) == found == address_of(str(found))


@pytest.mark.parametrize("text", ["", ":", "one", "[::1]", "one:port", "one:0", "one:65536", "one:\u0661", "[one]]:1", "a]:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no HOST:PORT"):
        address_of(text)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="a user or a password") as caught:
        address_of("me:s3cret@one:9092")
    assert "s3cret" not in str(caught.value)
