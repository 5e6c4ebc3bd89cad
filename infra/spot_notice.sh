#!/usr/bin/env bash
# Runs on each spot worker: when EC2 announces that it takes the machine back (two minutes ahead), drain the Ray node,
# so that Ray Train is told, writes a checkpoint, and goes on elsewhere or with fewer workers. Ends after that.
#   setsid nohup infra/spot_notice.sh >> /tmp/spot_notice.log 2>&1 &
set -euo pipefail

metadata=${SPOT_METADATA:-http://169.254.169.254} # EC2's metadata service, the same on every instance
poll=${SPOT_POLL_S:-5}                            # seconds, as EC2 advises

# Without it, `ray drain-node` starts a Ray of its own to ask for a node's id, and drains nothing.
export RAY_ADDRESS=${RAY_ADDRESS:-auto}

say() { echo "$(date -u +%FT%TZ) spot_notice: $*"; }

# The notice, by the second version of the metadata service; fails (404) while there is none.
notice() {
    local token
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 1
    curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
}

say "watching $metadata"
until found=$(notice); do sleep "$poll"; done

when=$(sed -nE 's/.*"time"[[:space:]]*:[[:space:]]*"([^"]+)".*/\1/p' <<<"$found")
if [[ -z $when ]] || ! end=$(date -d "$when" +%s); then # `date -d ''` is midnight, not an error
    say "the notice has no time that can be read: $found"
    exit 1
fi
say "$found"

# Until the machine goes: the head may be busy, or only just back.
while (( (left = end - $(date +%s)) > 0 )); do
    if ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "EC2 spot interruption at $when" \
        --deadline-remaining-seconds "$left"; then
        say "draining, ${left} s left"
        exit 0
    fi
    sleep 2
done
say "the node could not be drained before $when"
exit 1
