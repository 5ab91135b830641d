//! A machine with units, and an agent that guards some of them.

use std::fs;
use std::path::{Path, PathBuf};

use blackstart_core::report::{Report, Verdict};
use blackstart_lab::systemd::{self, BARE};
use blackstart_lab::{Bus, Cgroups, Ended, World};

/// A host with a machine that answers to two names.
pub(crate) fn world(name: &str) -> World {
    let (world, _) = World::with_web(name, &["github.com", "mirror.internal"]);
    world.policy(
        "deny.yaml",
        "mode: enforce\nrules:\n  - deny: github.com\n    reason: served by this database\n",
    );
    world
}

/// A unit that asks for both names, again and again, and says what came of it: `0` or curl's exit code.
pub(crate) const ASKS: &str = "ExecStart=/bin/sh -c 'while :; do for name in github.com mirror.internal; do \
      curl -sS -m 20 -o /dev/null http://$name/ 2>/dev/null; echo $name $? >>UNIT.asked; done; sleep 0.05; done'\n";

pub(crate) fn unit(world: &World, name: &str, service: &str) {
    world.unit(name, &format!("{BARE}{service}"));
}

/// What scripts have: `agent RULES...` starts one and waits until it takes calls, `guarded UNIT N` waits until it has told so
/// often that the unit is, `now UNIT NAME` says what came of the next attempt, `over N` waits for the reports of so many runs.
pub(crate) const TOOLS: &str = "mkdir -p state; chmod 711 .\n\
    soon() { n=0; until eval \"$1\"; do sleep 0.02; n=$((n+1)); [ $n -lt 3000 ] || { echo \"never: $1\"; cat told; exit 9; }; done; }\n\
    agent() { calls=$(grep -c 'takes calls' told 2>/dev/null || true); BLACKSTART agent --socket=DIR/agent.sock \"$@\" 2>>told & agent=$!; \
      soon \"[ \\$(grep -c 'takes calls' told) -gt ${calls:-0} ]\"; }\n\
    guarded() { soon \"[ \\$(grep -c ': $1, guarded by' told) -ge $2 ]\"; }\n\
    now() { lines=$(grep -c $2 $1.asked 2>/dev/null || true); soon \"[ \\$(grep -c $2 $1.asked 2>/dev/null) -gt $((${lines:-0} + 1)) ]\"; \
      grep $2 $1.asked | tail -n1; }\n\
    reports() { ls KEPT/runs/*/report.json 2>/dev/null | while read r; do [ -e $(dirname $r)/lock ] || echo $r; done; }\n\
    over() { soon \"[ \\$(reports | wc -l) -ge $1 ]\"; }\n";

/// Boot the machine and run `script` there, with [`TOOLS`].
pub(crate) fn boot(world: &World, cgroups: Cgroups, script: &str) -> Ended {
    world.boot(cgroups, Bus::Answers, &format!("{TOOLS}{script}"))
}

/// The reports of all runs, the earliest first.
pub(crate) fn reports(world: &World) -> Vec<Report> {
    reports_in(&world.guard().state().join("runs"))
}

/// Those of the runs in this directory.
pub(crate) fn reports_in(runs: &Path) -> Vec<Report> {
    let mut found: Vec<PathBuf> = fs::read_dir(runs)
        .unwrap()
        .flatten()
        .map(|run| run.path().join("report.json"))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    found.iter().map(read).collect()
}

pub(crate) fn of<'r>(reports: &'r [Report], unit: &str) -> Vec<&'r Report> {
    let is_of = |report: &&Report| {
        let attached = report.run.attached.as_ref();
        attached.is_some_and(|to| to.target == unit)
    };
    reports.iter().filter(is_of).collect()
}

pub(crate) fn told(world: &World) -> String {
    fs::read_to_string(world.dir().join("told")).unwrap_or_default()
}

/// Was this name's lookup, or a connection to it, judged so?
pub(crate) fn judged(report: &Report, name: &str, verdict: Verdict) -> bool {
    let mut names = report.names.iter();
    let mut flows = report.flows.iter();
    names.any(|it| it.name == name && it.verdict == verdict)
        || flows.any(|it| it.name.as_deref() == Some(name) && it.verdict == verdict)
}

/// The unit file that is shipped, with a rule, as one of the machine's. Scripts put the binary and the policy into /run.
pub(crate) fn shipped(world: &World) {
    let more = "Environment=BLACKSTART_STATE=/run/blackstart\nStandardError=append:DIR/told";
    let text = systemd::shipped("blackstart-agent.service", more).replace(
        "--group blackstart",
        "--guard 'deploy-*.service=/run/deny.yaml'",
    );
    assert!(text.contains("--guard"), "{text}");
    world.unit("blackstart-agent.service", &text);
}
