#!/usr/bin/env bash
# Deploys a configuration fix to one MySQL host, the way such scripts come to look over the years.
# Every step goes on when the one before it failed, and the script says at the end what is missing.
set -uo pipefail
etc=${MYSQL_ETC:?say where the configuration goes}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

step() { # description, command...
    local what=$1
    shift
    if "$@"; then
        printf 'deploy: %-34s done\n' "$what"
    else
        printf 'deploy: %-34s FAILED\n' "$what"
        failed=1
    fi
}

# A package from the company's own mirror. Nothing wrong with it.
fetch_base() { curl -fsS -o "$work/my.cnf" http://mirror.internal/mysql/my.cnf; }

# A release of a tool, straight from the forge. (A direct dependency.)
fetch_lint() {
    curl -fsSL -o "$work/config-lint" https://github.com/mysql-tools/config-lint/releases/config-lint &&
        chmod +x "$work/config-lint" && "$work/config-lint" "$work/my.cnf"
}

# The fix itself is in a repository on the same forge. (Direct, by another protocol.)
fetch_fix() {
    git clone -q git://github.com/fleet-config.git "$work/fleet-config" &&
        cat "$work/fleet-config/max-connections.cnf" >>"$work/my.cnf"
}

# A tool that has been on this disk for years. It looks for updates of itself. (Hidden.)
check_schema() { schema-check "$work/my.cnf"; }

# An internal service, which fetches from the forge when it is asked. (Transient.)
run_migrations() { curl -fsS -X POST http://migrations.internal:8080/run?database=accounts; }

install_config() { mkdir -p "$etc" && cp "$work/my.cnf" "$etc/my.cnf"; }

# One line of text over plain TCP, as metric servers take it.
tell_metrics() { echo "deploy.mysql.config 1 0" >/dev/tcp/metrics.internal/2003; }

# The database of this very host. (No dependency on anything else: itself.)
look_at_database() { echo ping >/dev/tcp/127.0.0.1/3306; }

step "look at the database" look_at_database
step "fetch the base configuration" fetch_base
step "fetch config-lint and run it" fetch_lint
step "fetch the fix" fetch_fix
step "check the schema" check_schema
step "run migrations" run_migrations
step "install the configuration" install_config
step "tell the metrics server" tell_metrics
exit "$failed"
