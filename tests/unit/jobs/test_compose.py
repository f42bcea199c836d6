"""infra/docker-compose.yml and what it mounts fit together: names, ports, buckets, keys. It is not run here: there is no Docker."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from jobs.config import load_config, load_stream

INFRA = Path(__file__).parents[3] / "infra"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "docker-compose.yml").read_text())
    return found


def mounted(compose: dict[str, Any]) -> Path:
    (source,) = [str(each).split(":")[0] for each in compose["services"]["memstream"]["volumes"] if each.endswith("stream.yaml:ro")]
    return INFRA / source


def test_the_stream_reads_where_the_broker_says_it_is(compose: dict[str, Any]) -> None:
    config = load_stream(mounted(compose))
    kafka = compose["services"]["kafka"]["environment"]
    advertised = dict(each.split("://") for each in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert config.kafka.bootstrap_servers == (advertised["INSIDE"],) == ("kafka:9092",)
    assert compose["services"]["registry"]["environment"]["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"] == advertised["INSIDE"]
    (published,) = compose["services"]["kafka"]["ports"]
    assert published == f"{advertised['OUTSIDE']}:{advertised['OUTSIDE'].split(':')[1]}"
    listeners = {each.split("://")[0] for each in kafka["KAFKA_LISTENERS"].split(",")}
    assert listeners == {each.split(":")[0] for each in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}


def test_the_registry_named_for_other_formats_is_the_one_beside_it(compose: dict[str, Any]) -> None:
    lines = [line for line in mounted(compose).read_text().splitlines() if "registry: {url" in line]
    address = urlsplit(lines[0].split('"')[1])
    assert address.hostname in compose["services"]
    assert compose["services"]["registry"]["ports"] == [f"127.0.0.1:8081:{address.port}"]
    assert load_stream(mounted(compose), ["decode.format=avro", f"decode.registry.url={address.geturl()}"]).decode.format == "avro"


def test_snapshots_go_into_the_bucket_that_is_made(compose: dict[str, Any]) -> None:
    services = compose["services"]
    root = urlsplit(load_stream(mounted(compose)).snapshots.root)
    assert root.scheme == "s3" and f"s3://{root.netloc}" in services["bucket"]["entrypoint"][-1]
    endpoint = urlsplit(services["memstream"]["environment"]["AWS_ENDPOINT_URL"])
    assert endpoint.hostname in services
    assert services["s3"]["command"][:2] == ["--port", f":{endpoint.port}"]
    keys = [services["s3"]["environment"][f"ROOT_{name}_KEY"] for name in ("ACCESS", "SECRET")]
    assert keys == [services["memstream"]["environment"][name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    assert services["bucket"]["environment"] == services["memstream"]["environment"]


def test_each_waits_for_what_it_needs_and_nothing_listens_to_other_machines(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services, name
            assert how["condition"] == ("service_healthy" if "healthcheck" in services[needed] else "service_completed_successfully")
        assert all(each.startswith("127.0.0.1:") for each in service.get("ports", ())), name
        assert "healthcheck" in service or name == "bucket"
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (INFRA / source).is_file() if source.startswith(".") else source in compose["volumes"]
    http = load_config(mounted(compose)).http
    assert services["memstream"]["ports"] == [f"127.0.0.1:{http.port}:{http.port}"]


def test_the_image_is_made_of_what_the_package_is(compose: dict[str, Any]) -> None:
    build = compose["services"]["memstream"]["build"]
    context = (INFRA / build["context"]).resolve()
    dockerfile = context / build["dockerfile"]
    assert dockerfile.is_file()
    kept = [line[1:] for line in Path(f"{dockerfile}.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((context / each).exists() for each in kept)
    copied = [line.split()[1] for line in dockerfile.read_text().splitlines() if line.startswith("COPY") and line.split()[1] != "."]
    assert set(copied) <= set(kept)
