#!/usr/bin/env bash
# A real Apache Kafka broker without Docker: Java 17 and Maven are enough. One node, one folder, loopback only.
#
#   kafka.sh fetch  LIBS                                   get the jars into LIBS, once (46 jars, 43 MB)
#   kafka.sh format LIBS DIR PORT [KEY=VALUE ...]          make DIR: server.properties and an empty log; listens on PORT and PORT+1
#   kafka.sh run    LIBS DIR                               run it in this process, so that a signal to it reaches the broker
#
# At `format`, SCRAM-SHA-256=[name=NAME,password=PASSWORD] (or -512) makes a user; every other KEY=VALUE goes into server.properties.
# KAFKA_OPTS goes to java at `run`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
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
    local users=() settings=() each
    for each in "$@"; do
        case "$each" in
        SCRAM-SHA-*) users+=(--add-scram "$each") ;;
        *) settings+=("$each") ;;
        esac
    done
    cat >"$dir/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=CLIENT://127.0.0.1:$port
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
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
    for each in "${settings[@]}"; do echo "$each" >>"$dir/server.properties"; done
    local id
    id=$(java -cp "$libs/*" kafka.tools.StorageTool random-uuid)
    java -cp "$libs/*" kafka.tools.StorageTool format -t "$id" -c "$dir/server.properties" "${users[@]}"
}

run() {
    local libs=$1 dir=$2
    exec java -Xms128m -Xmx512m -XX:+UseSerialGC ${KAFKA_OPTS:-} -cp "$libs/*" kafka.Kafka "$dir/server.properties"
}

case "${1:-}:$#" in
fetch:2) fetch "$2" ;;
format:[4-9] | format:[1-9][0-9]) format "${@:2}" ;;
run:3) run "$2" "$3" ;;
*) usage ;;
esac
