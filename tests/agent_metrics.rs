//! What an agent tells of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use blackstart_lab::{Agent, World};

/// Wait until the file has all these lines.
#[track_caller]
fn comes_to(file: &Path, lines: &[&str]) {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        let has = |line: &&str| {
            text.lines()
                .any(|one| one == format!("blackstart_agent_{line}"))
        };
        let missing: Vec<_> = lines.iter().filter(|line| !has(line)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "{missing:?}: {text}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_agent_counts_guards_spares_refusals_and_what_it_took_up() {
    let (world, ..) = World::with_names("agent_metrics");
    let file = world.dir().join("agent.prom");
    let mut agent = Agent::start(
        &world,
        &[&format!("--metrics={}", file.display()), "--spares=1"],
    );
    comes_to(
        &file,
        &[
            "guards 0",
            "spares_ready 1",
            "runs_began_total 0",
            "notifications_waiting{to_be=\"sent\"} 0",
        ],
    );
    let script = "echo up; until [ -e stop ]; do sleep 0.1; done";
    let mut run = agent.guard().start(&["sh", "-c", script]);
    run.running().wait_for("up");
    // What callers may not ask for where guardrails enforce.
    world.file(
        "guardrails/10-host.yaml",
        "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n",
    );
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(Agent::guardrails(&world), open).unwrap();
    let refused = agent.guard().arg("--accept-gap=unseen_families");
    refused
        .run(&["true"])
        .exits(125)
        .warns("only its agent says");
    comes_to(
        &file,
        &[
            "guards 1",
            "spares_ready 1",
            "runs_began_total 1",
            "runs_over_total 0",
            "calls_refused_total{reason=\"order\"} 1",
        ],
    );
    agent.kill();
    agent.again();
    comes_to(
        &file,
        &["guards 1", "runs_taken_up_total 1", "runs_began_total 0"],
    );
    world.file("stop", "");
    run.wait().exits(0);
    comes_to(
        &file,
        &["guards 0", "runs_taken_up_total 1", "runs_over_total 1"],
    );
}
