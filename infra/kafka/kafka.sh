#!/usr/bin/env bash
# A real Apache Kafka broker without Docker: Java 17 and Maven are enough. One node, one folder, loopback only.
#
#   kafka.sh fetch  LIBS                                   get the jars into LIBS, once (46 jars, 43 MB)
#   kafka.sh format LIBS DIR PORT [KEY=VALUE ...]          make DIR: server.properties and an empty log; listens on PORT and PORT+1
#   kafka.sh run    LIBS DIR                               run it in this process, so that a signal to it reaches the broker
#
# SCRAM_USER and SCRAM_PASSWORD, if set at `format`, make the client listener ask for SASL with SCRAM-SHA-256.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
}

fetch() {
    local libs=$1
    mkdir -p "$libs"
    mvn --quiet --batch-mode -f "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$(cd "$libs" && pwd)"
}

format() {
    local libs=$1 dir=$2 port=$3
    shift 3
    mkdir -p "$dir"
    local protocol=PLAINTEXT scram=()
    if [[ -n "${SCRAM_USER:-}" ]]; then
        protocol=SASL_PLAINTEXT
        scram=(--add-scram "SCRAM-SHA-256=[name=$SCRAM_USER,password=$SCRAM_PASSWORD]")
    fi
    cat >"$dir/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=CLIENT://127.0.0.1:$port
listener.security.protocol.map=CLIENT:$protocol,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
sasl.enabled.mechanisms=SCRAM-SHA-256
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256
listener.name.client.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="${SCRAM_USER:-}" password="${SCRAM_PASSWORD:-}";
log.dirs=$dir/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
log.retention.check.interval.ms=1000
log.cleaner.backoff.ms=500
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=0
EOF
    for setting in "$@"; do echo "$setting" >>"$dir/server.properties"; done
    local id
    id=$(java -cp "$libs/*" kafka.tools.StorageTool random-uuid)
    java -cp "$libs/*" kafka.tools.StorageTool format -t "$id" -c "$dir/server.properties" "${scram[@]}"
}

run() {
    local libs=$1 dir=$2
    exec java -Xms128m -Xmx512m -XX:+UseSerialGC -cp "$libs/*" kafka.Kafka "$dir/server.properties"
}

case "${1:-}:$#" in
fetch:2) fetch "$2" ;;
format:[4-9] | format:1[0-9]) format "${@:2}" ;;
run:3) run "$2" "$3" ;;
*) usage ;;
esac
