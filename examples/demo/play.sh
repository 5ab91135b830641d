#!/usr/bin/env bash
# Plays the example on the demo's host. Started by the demo's world, which has made the network, the
# name server and all other servers; see README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${BLACKSTART:?}" "${REPORTS:?}"
export MYSQL_ETC=$REPORTS/host-etc-mysql

# What has been on this host for years, and is no part of the deployment.
install -D -m 0755 "$here/tools/schema-check" "$REPORTS/host-opt/bin/schema-check"
export PATH=$PATH:$REPORTS/host-opt/bin

# Bold on a terminal only.
on='' off=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then on=$'\033[1m' off=$'\033[0m'; fi
bold() { printf '\n%s%s%s\n' "$on" "$*" "$off"; }
shown() { printf '$ %s\n' "$*"; }

bold "1. Observe: what does this deployment reach for?"
shown "blackstart run --service mysql --catalog catalog --report observe.json -- ./deploy.sh"
status=0
"$BLACKSTART" run --service mysql --catalog "$here/catalog" --report "$REPORTS/observe.json" -- "$here/deploy.sh" || status=$?
echo "exit code: $status"
((status == 0)) || { echo "demo: the deployment should have worked under observe" >&2; exit 1; }

bold "2. Enforce: the same, as if github.com were down because of this very database"
sed 's/^/    /' "$here/policy.yaml"

# Somebody else on the same host, to the same address, all the while.
neighbour() {
    local good=0 bad=0
    trap 'echo "$good $bad" >"$REPORTS/neighbour"; exit' TERM
    while :; do
        if curl -fsS --max-time 5 -o /dev/null https://github.com/; then good=$((good + 1)); else bad=$((bad + 1)); fi
        sleep 0.02
    done
}
neighbour &
neighbour=$!
trap 'kill "$neighbour" 2>/dev/null || true' EXIT

shown "blackstart run --policy policy.yaml --catalog catalog --report enforce.json --report enforce.html -- ./deploy.sh"
status=0
"$BLACKSTART" run --policy "$here/policy.yaml" --catalog "$here/catalog" --report "$REPORTS/enforce.json" --report "$REPORTS/enforce.html" -- "$here/deploy.sh" || status=$?
echo "exit code: $status"

kill "$neighbour"
wait "$neighbour" || true
read -r good bad <"$REPORTS/neighbour"
rm -f "$REPORTS/neighbour"

bold "3. Meanwhile, outside of the run, on the same host"
echo "curl https://github.com/ was run again and again: $good times it worked, $bad times it failed"
if ((good == 0 || bad > 0)); then
    echo "demo: the neighbour should not have been touched" >&2
    exit 1
fi
if ((status == 0)); then
    echo "demo: the deployment should have failed under enforce" >&2
    exit 1
fi

bold "4. github.com is down: which deployments still work, and what comes back in which order?"
shown "blackstart graph impact github --catalog catalog --runs observe.json enforce.json"
"$BLACKSTART" graph impact github --catalog "$here/catalog" --runs "$REPORTS/observe.json" "$REPORTS/enforce.json"
shown "blackstart graph order --catalog catalog --runs observe.json enforce.json"
"$BLACKSTART" graph order --catalog "$here/catalog" --runs "$REPORTS/observe.json" "$REPORTS/enforce.json"

bold "5. Rehearse: github.com is down for one run. Does the deployment fail, hang, or manage?"
shown "blackstart run -q --service mysql --catalog catalog --down github --report drill.json -- ./deploy.sh"
status=0
"$BLACKSTART" run -q --service mysql --catalog "$here/catalog" --down github --report "$REPORTS/drill.json" -- "$here/deploy.sh" || status=$?
echo "exit code: $status"
((status == 1)) || { echo "demo: the deployment should have failed without github.com" >&2; exit 1; }

bold "The reports"
echo "$REPORTS/observe.json"
echo "$REPORTS/enforce.json"
echo "$REPORTS/enforce.html"
echo "$REPORTS/drill.json"
