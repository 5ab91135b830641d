//! The command line: exit codes, what is wrong with what was typed, formats.

use blackstart_lab::client::reach;
use blackstart_lab::guard::binary;
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, World, Zone, case, program};

#[test]
fn the_exit_code_is_the_commands_own() {
    let world = World::new("exit_codes");
    world.dns(Zone::new());
    let file = world.file("not-executable", "text");
    for policy in [None, Some("mode: enforce\nrules:\n  - deny: github.com\n")] {
        let guard = || {
            policy
                .iter()
                .fold(world.guard(), |guard, policy| guard.policy(policy))
        };
        guard().run(&["true"]).exits(0);
        guard().run(&["false"]).exits(1);
        guard().run(&["sh", "-c", "exit 42"]).exits(42);
        guard().run(&["sh", "-c", "exit 255"]).exits(255);
        guard().run(&["sh", "-c", "kill -TERM $$"]).exits(128 + 15);
        guard().run(&["sh", "-c", "kill -KILL $$"]).exits(128 + 9);
        guard()
            .run(&["no-such-command-anywhere"])
            .exits(127)
            .warns("no-such-command-anywhere");
        guard()
            .run(&[file.to_str().unwrap()])
            .exits(126)
            .warns("not-executable");
        guard().run(&["/"]).exits(126);
    }
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn standard_streams_are_the_commands_own() {
    let world = World::new("streams");
    world.dns(Zone::new());
    let run = world
        .guard()
        .run(&["sh", "-c", "cat; echo out; echo err >&2"])
        .exits(0);
    assert_eq!(run.ended.stdout, "out\n", "nothing of ours on stdout");
    assert!(run.ended.stderr.contains("err\n"));
    // No summary where the report itself is asked for.
    let report = world
        .guard()
        .arg("--format=json")
        .run(&["sh", "-c", "echo err >&2"])
        .exits(0);
    assert_eq!(report.ended.stderr, "err\n", "silent with --format json");
}

#[test]
fn a_wrong_policy_stops_everything_with_all_diagnostics_at_once() {
    let shown = case!(58);
    let world = World::new("wrong_policy");
    world.dns(Zone::new());
    let policy = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforcing\nrulez: []\nrules:\n  - deny: git hub.com\n  - alow: a.example\n";
    let run = world
        .guard()
        .policy_file(policy)
        .run(&["sh", "-c", "touch ran"])
        .exits(125);
    for (place, word) in [
        (":3:7", "enforce"),
        (":4:1", "rules"),
        (":6:", "git hub.com"),
        (":7:", "allow"),
    ] {
        assert!(
            run.ended.stderr.contains(place) && run.ended.stderr.contains(word),
            "{place} {word}: {:?}",
            run.ended
        );
    }
    assert!(run.report.is_none());
    shown.refused_at_start(&run);
    assert!(!world.dir().join("ran").exists(), "nothing may have run");
    for (policy, word) in [
        ("", "empty"),
        ("a: [", ""),
        ("apiVersion: blackstart.dev/v9\nkind: Policy\n", "v9"),
        (
            "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: observe\nmode: enforce\n",
            "mode",
        ),
    ] {
        world
            .guard()
            .policy_file(policy)
            .run(&["touch", "ran"])
            .exits(125)
            .warns(word);
    }
    world
        .guard()
        .arg("--policy")
        .arg("absent.yaml")
        .run(&["touch", "ran"])
        .exits(125)
        .warns("absent.yaml");
    assert!(!world.dir().join("ran").exists(), "nothing may have run");
}

#[test]
fn enforce_without_what_it_needs_runs_nothing_and_observe_runs() {
    let shown = case!(61, "no privilege");
    let world = World::new("no_privilege");
    world.dns(Zone::new());
    world.run(&["chmod", "777", "."]).succeeds();
    let policy = world.file("p.yaml", "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: github.com\n");
    let binary_copy = world.dir().join("blackstart");
    program::copy(binary(), &binary_copy);
    let (binary, policy) = (binary_copy.to_str().unwrap(), policy.to_str().unwrap());
    let state = format!(
        "BLACKSTART_STATE={}",
        world.dir().join("nobodys-state").display()
    );
    let unprivileged = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "env",
        &state,
        binary,
        "run",
    ];
    let enforce = [
        &unprivileged[..],
        &["--policy", policy, "--", "touch", "ran"],
    ]
    .concat();
    let ended = world.run(&enforce).exits(125);
    assert!(!world.dir().join("ran").exists(), "nothing may have run");
    assert!(
        ended.stderr.lines().count() <= 3 && ended.stderr.contains("root"),
        "{ended:?}"
    );
    shown.refused_at_start(&ended);
    let observe = [&unprivileged[..], &["--", "touch", "ran"]].concat();
    let ended = world.run(&observe).exits(0);
    assert!(world.dir().join("ran").exists(), "observe always runs");
    assert!(ended.stderr.contains("unguarded"), "{ended:?}");

    // To people that is one line; to machines a finding, and nothing that looks well.
    let [report, metrics] = ["r.json", "x.prom"].map(|name| world.dir().join(name));
    let [into, tells] = [&report, &metrics].map(|path| path.display().to_string());
    let tells = format!("metrics:{tells}");
    let told = [
        &unprivileged[..],
        &["--report", &into, "--notify", &tells, "--", "true"],
    ]
    .concat();
    let ended = world.run(&told).exits(0);
    assert_eq!(ended.stderr.matches("unguarded").count(), 1, "{ended:?}");
    let text = std::fs::read_to_string(report).unwrap();
    let report: blackstart_core::report::Report = serde_json::from_str(&text).unwrap();
    let kinds: Vec<_> = report.findings.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds, ["unguarded"]);
    let metrics = std::fs::read_to_string(metrics).unwrap();
    for line in [
        "blackstart_last_run_coverage_ratio{service=\"\"} 0\n",
        "blackstart_last_run_guarded{service=\"\"} 0\n",
        "blackstart_runs_total{outcome=\"unguarded\",service=\"\"} 1\n",
        "blackstart_runs_total{outcome=\"succeeded\",service=\"\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn doctor_and_formats() {
    let world = World::new("doctor");
    world.dns(Zone::new());
    world.guard().blackstart(&["doctor"]).succeeds();
    let json = world
        .guard()
        .blackstart(&["doctor", "--format", "json"])
        .succeeds();
    serde_json::from_str::<serde_json::Value>(&json.stdout)
        .unwrap_or_else(|e| panic!("{e}: {json:?}"));
    let run = world
        .guard()
        .arg("--format")
        .arg("json")
        .run(&["true"])
        .exits(0);
    let shown: serde_json::Value =
        serde_json::from_str(&run.ended.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", run.ended));
    assert_eq!(shown["schema_version"], 1);
    assert_eq!(shown["run"]["id"], run.report().run.id.as_str());
}

#[test]
fn what_contradicts_itself_is_denied_and_no_rule_is_about_all_addresses() {
    let every = case!(59, "a rule about every address");
    let both = case!(59, "an allow and a deny of the same");
    let world = World::new("contradicts");
    let web = world.node("web");
    web.http();
    world.dns(Zone::new());
    for every_address in ["0.0.0.0/0", "::/0", "\"*\""] {
        let run = world
            .guard()
            .policy(&format!(
                "default: deny\nrules:\n  - allow: {every_address}\n"
            ))
            .run(&["touch", "ran"])
            .exits(125)
            .warns("`default: deny`");
        every.refused_at_start(&run);
    }
    assert!(!world.dir().join("ran").exists(), "nothing may have run");
    let reach = reach("tcp", web.v4(), 80);
    both.outside(&world.run(&reach));
    let rules = [
        format!("  - allow: {}\n", web.v4()),
        format!("  - deny: {}\n", web.v4()),
    ];
    for order in [[0, 1], [1, 0]] {
        let rules = order.map(|at| rules[at].as_str()).concat();
        let run = world
            .guard()
            .policy(&format!("mode: enforce\nrules:\n{rules}"))
            .run(&reach)
            .exits(1)
            .says("ECONNREFUSED");
        both.refused(&run);
    }
}

#[test]
fn a_policy_that_is_deployed_with_the_rest_is_told() {
    let shown = case!(60);
    let world = World::new("deployed_policy");
    world.dns(Zone::new());
    world.file("repo/.git/HEAD", "ref: refs/heads/main\n");
    let script = world.file("repo/deploy.sh", "#!/bin/sh\necho deployed\n");
    let script = script.display().to_string();
    let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules: []\n";
    let (within, beside) = (
        world.file("repo/policy.yaml", text),
        world.file("policy.yaml", text),
    );
    shown.outside(&world.run(&[&script]));
    let run = world
        .guard()
        .policy_path(&within)
        .run(&[&script])
        .exits(0)
        .warns("policy.yaml lies in the tree that is deployed");
    let files = &run.report().run.policy.as_ref().unwrap().files;
    assert_eq!(files[..], [within.display().to_string()]);
    shown.is(Becomes::Recorded, run.held());
    let run = world.guard().policy_path(&beside).run(&[&script]).exits(0);
    assert!(
        !run.ended.stderr.contains("tree that is deployed"),
        "{run:?}"
    );
}
