#!/usr/bin/env bash
# A Slurm cluster of this machine alone, for tests/toolkit/training/test_slurm.py; without accounts, as small ones are.
#
#     apt-get install slurm-wlm munge
#     tests/one_node_slurm.sh start FOLDER      # all that it writes is in there; MUNGE wants it reachable by all users
#     SLURM_CONF=FOLDER/slurm.conf .venv/bin/python -m pytest tests/toolkit/training/test_slurm.py
#     tests/one_node_slurm.sh stop FOLDER
#
# Tried with Slurm 22.05.8 of Debian 12, as root. No line of it touches a Slurm or MUNGE that the system runs.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
action="$1" folder="$(mkdir -p "$2" && cd "$2" && pwd)"
export SLURM_CONF="$folder/slurm.conf"

start() {
    umask 022
    mkdir -p "$folder"/{munge,controller,node}
    chmod 0755 "$folder" "$folder/munge"
    head -c 1024 /dev/urandom > "$folder/munge/key"
    chmod 0400 "$folder/munge/key"
    local name
    name="$(hostname -s)"
    # A requeued job waits until its old credential has expired, else two minutes. The killed one has KillWait seconds.
    cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthInfo=socket=$folder/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=10
ReturnToService=2
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/node
SlurmctldPidFile=$folder/controller.pid
SlurmdPidFile=$folder/node.pid
SlurmctldLogFile=$folder/controller.log
SlurmdLogFile=$folder/node.log
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
CONF
    printf 'CgroupPlugin=autodetect\nIgnoreSystemd=yes\n' > "$folder/cgroup.conf"
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge.pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 30); do
        [ "$(timeout 5 sinfo --noheader --format=%t)" = idle ] && exit
        sleep 1
    done
    echo "the node does not come up; see $folder/node.log and $folder/controller.log" >&2
    exit 1
}

stop() {
    timeout 10 scancel --me || true
    for daemon in node controller munge; do
        [ -f "$folder/$daemon.pid" ] && kill "$(cat "$folder/$daemon.pid")"
    done
}

case "$action" in
    start) start ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop FOLDER" >&2 && exit 2 ;;
esac
