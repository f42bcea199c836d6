#!/usr/bin/env bash
# A real schema registry without Docker: Java 17 and Maven are enough. In memory, loopback only.
#
#   registry.sh fetch DIR          get it into DIR, once (140 MB)
#   registry.sh run   DIR PORT     run it in this process: http://127.0.0.1:PORT/apis/ccompat/v7
set -euo pipefail

artifact=io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
}

fetch() {
    local dir=$1
    mkdir -p "$dir"
    mvn --quiet --batch-mode dependency:get "-Dartifact=$artifact" -Dtransitive=false
    mvn --quiet --batch-mode dependency:unpack "-Dartifact=$artifact" "-DoutputDirectory=$(cd "$dir" && pwd)"
}

run() {
    local dir=$1 port=$2
    cd "$dir"
    exec java -Xmx512m -XX:+UseSerialGC -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$port" -jar apicurio-registry-app-*-runner.jar
}

case "${1:-}:$#" in
fetch:2) fetch "$2" ;;
run:3) run "$2" "$3" ;;
*) usage ;;
esac
