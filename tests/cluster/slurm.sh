#!/usr/bin/env bash
# A SLURM of one node, for tests: `slurm.sh up FOLDER`, `slurm.sh down FOLDER`, as root. All state is in FOLDER, all
# sockets listen on the loopback, no systemd and no accounting service is needed, and only what was started is ended.
set -euo pipefail
verb=${1:?up or down}
folder=$(realpath -m "${2:?folder}")
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

end() {  # end PIDFILE NAME: read at once, since a daemon deletes its file; only if that process still has that name
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
  kill -TERM "$pid"
  for _ in $(seq 150); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$pid"
}

down() {
  if [ -e "$folder/slurmctld.pid" ]; then
    timeout 10 scancel --user="$(id -u)" 2>/dev/null || true
    for _ in $(seq 100); do  # KillWait, and what jobs do at SIGTERM
      [ -z "$(timeout 5 squeue --noheader --states=running,completing 2>/dev/null)" ] && break
      sleep 0.1
    done
  fi
  end "$folder/slurmd.pid" slurmd
  end "$folder/slurmctld.pid" slurmctld
  end "$folder/munge/pid" munged
}

if [ "$verb" = down ]; then
  down
  exit 0
fi

read -r controller node < <(python3 -c '
import socket
free = [socket.socket() for _ in range(2)]
for one in free: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in free))')
mkdir -p "$folder"/{munge,state,spool,log}
chmod 755 "$folder" "$folder/munge"
(umask 077; head -c 128 /dev/urandom > "$folder/munge/key")

# config_overrides: more cores than there are. cred_expire: a requeued job otherwise waits two minutes.
# Every start has other job ids, since submitit's folders are named by them.
cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/munge/sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=3
FirstJobId=$((RANDOM + 1000))
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE DefMemPerCPU=100 State=UP
CONF
echo "CgroupPlugin=cgroup/v1" > "$folder/cgroup.conf"  # slurmd loads one, though nothing here uses it

trap down ERR
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/sock" --pid-file="$folder/munge/pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=2
slurmctld -c
slurmd
for _ in $(seq 300); do
  [ "$(timeout 5 sinfo --noheader --format=%T 2>/dev/null)" = idle ] && exit 0
  sleep 0.1
done
tail -n 20 "$folder"/log/*.log >&2
false
