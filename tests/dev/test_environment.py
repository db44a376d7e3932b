"""The Python environment: what is locked, and how pip's settings reach uv."""

import pytest

from dev.environment import LOCK, REPOSITORY, locked, uv_environment


def test_the_lock_holds_versions_and_hashes_and_names_no_registry() -> None:
    for line in LOCK.read_text().splitlines():
        assert line.rstrip(" \\").startswith(("    --hash=sha256:",)) or "==" in line, line
        assert "://" not in line


def test_every_direct_dependency_is_locked_at_its_version() -> None:
    lock = LOCK.read_text()
    for line in (REPOSITORY / "requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert f"{name.partition('[')[0].lower()}=={version} \\\n" in lock


def test_locked_takes_one_package_with_all_its_hashes() -> None:
    lock = "uv-build==1 \\\n    --hash=sha256:aa\nuv==2 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\nyarl==3 \\\n"
    assert locked("uv", lock) == "uv==2 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"PIP_INDEX_URL": "https://mirror"}, {"UV_DEFAULT_INDEX": "https://mirror"}, id="index"),
        pytest.param({"PIP_CERT": "/ca.crt"}, {"SSL_CERT_FILE": "/ca.crt"}, id="certificates"),
        pytest.param(
            {"PIP_CERT": "/ca.crt", "SSL_CERT_FILE": "/own.crt"},
            {"SSL_CERT_FILE": "/own.crt"},
            id="uv's own setting wins",
        ),
        pytest.param({"PIP_FIND_LINKS": "/wheels"}, {"UV_FIND_LINKS": "/wheels"}, id="find-links"),
        pytest.param({}, {"UV_SYSTEM_CERTS": "true"}, id="the system's certificates"),
    ],
)
def test_uv_environment(settings: dict[str, str], expected: dict[str, str]) -> None:
    assert expected.items() <= uv_environment(settings).items()


def test_uv_gets_only_settings_that_pip_has() -> None:
    assert "UV_DEFAULT_INDEX" not in uv_environment({"PIP_INDEX_URL": ""})
