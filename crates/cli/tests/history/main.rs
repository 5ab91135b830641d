//! The history as it is asked: what each command says, to people and to programs, and how it exits. The runs are made up;
//! what live ones leave is tested in the lab.

mod demo;
mod host;
mod promote;

use std::fs;

use host::{Host, id, in_order, report, report_of};
use serde_json::{Value, json};

#[test]
fn without_runs_each_command_says_so() {
    let host = Host::new();
    host.policy("p.yaml", "rules: []\n");
    assert!(host.says(&["runs", "list"], 0).contains("no run has ended"));
    assert_eq!(host.json(&["runs", "list"], 0)["runs"], json!([]));
    assert!(
        host.warns(&["runs", "show", "latest"], 1)
            .contains("no run of the history")
    );
    assert!(host.says(&["runs", "export"], 0).is_empty());
    assert!(
        host.says(&["runs", "prune", "--older-than", "1d"], 0)
            .contains("nothing to remove")
    );
    assert!(
        host.warns(&["policy", "learn", "--service", "mysql"], 1)
            .contains("no such run of mysql")
    );
    // A test of nothing has not passed.
    assert!(
        host.warns(&["policy", "backtest", "p.yaml"], 1)
            .contains("no such run")
    );
    assert!(
        host.warns(&["policy", "diff", "p.yaml", "p.yaml"], 1)
            .contains("no such run")
    );
    // And nothing was made.
    assert!(!host.path().join("state").exists());
}

#[test]
fn what_is_typed_wrongly_exits_with_125() {
    let host = Host::new();
    for words in [
        &["runs"][..],
        &["runs", "list", "--since", "yesterday"],
        &["runs", "prune"],
        &["runs", "prune", "--larger-than", "2"],
        &["runs", "show"],
        &["runs", "show", "latest", "--report", "x.pdf"],
        &["policy", "learn"],
        &["policy", "backtest"],
        &["policy", "diff", "p.yaml"],
    ] {
        let output = host.call(words, 125);
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{words:?}"
        );
    }
}

#[test]
fn runs_are_taken_in_by_whoever_asks_first() {
    let host = Host::with(&[&["a.example.com"], &["a.example.com", "b.example.com"]]);
    let list = host.json(&["runs", "list"], 0);
    assert_eq!(list["total"], 2);
    assert_eq!(
        (&list["runs"][0]["id"], &list["runs"][0]["destinations"]),
        (&json!(id(1)), &json!(2))
    );
    let table = host.says(&["runs", "list"], 0);
    assert!(
        table.contains("2026-11-02 12:00:00  mysql    db1   0     9 s   2        0        "),
        "{table}"
    );
    let text = host.says(&["runs", "show", "00000001", "--format", "json"], 0);
    assert_eq!(
        text,
        in_order(&report(1, &["a.example.com", "b.example.com"]))
    );
    assert!(
        host.warns(&["runs", "show", "0193"], 1)
            .contains("several runs are meant")
    );
    let exported = host.says(&["runs", "export"], 0);
    let lines: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            report(0, &["a.example.com"]),
            report(1, &["a.example.com", "b.example.com"])
        ]
    );
}

#[test]
fn a_report_that_is_none_is_told_and_takes_nothing_from_the_rest() {
    let host = Host::with(&[&["a.example.com"]]);
    host.keep(7, "{\"schema_version\":1,");
    let output = host.call(&["runs", "list"], 1);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(out.contains(&id(0)) && !out.contains(&id(7)), "{out}");
    assert!(err.contains(&id(7)) && err.contains("cut off"), "{err}");
}

#[test]
fn a_damaged_history_is_set_aside_and_made_anew() {
    let host = Host::with(&[&["a.example.com"]]);
    host.says(&["runs", "list"], 0);
    let kept = b"SQLite format 3\0 and then something else";
    fs::write(host.path().join("state/history.db"), kept).unwrap();
    let output = host.call(&["runs", "list"], 0);
    assert!(String::from_utf8(output.stdout).unwrap().contains(&id(0)));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("history.db.set-aside-1")
    );
    assert_eq!(
        fs::read(host.path().join("state/history.db.set-aside-1")).unwrap(),
        kept
    );
    assert!(host.warns(&["runs", "list"], 0).is_empty());
}

#[test]
fn runs_differ_in_what_they_reached_for() {
    let host = Host::with(&[
        &["a.example.com"],
        &["a.example.com", "b.example.com"],
        &["b.example.com", "c.example.com"],
    ]);
    let latest = host.json(&["runs", "diff", "latest"], 0);
    assert_eq!(latest["earlier_runs"], 2);
    assert_eq!(latest["new"]["destinations"], json!(["c.example.com:443"]));
    assert_eq!(latest["gone"]["names"], json!(["a.example.com"]));
    let two = host.json(&["runs", "diff", &id(0), &id(1)], 0);
    assert_eq!(two["new"]["destinations"], json!(["b.example.com:443"]));
    assert_eq!(two["gone"]["destinations"], json!([]));
    let text = host.says(&["runs", "diff", "latest"], 0);
    for wanted in [
        "against 2 runs before it",
        "+ c.example.com:443",
        "- a.example.com",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(
        host.says(&["runs", "diff", &id(0)], 0)
            .contains("is the first of its kind")
    );
}

/// As if it had been attached to, and not run.
fn watched(mut report: Value) -> Value {
    report["run"]["command"] = json!([]);
    report["run"]["attached"] = json!({
        "by": "unit", "target": "mysql.service", "cgroup": "/system.slice/mysql.service", "until": "asked",
        "connections": []
    });
    report
}

/// As if an outage had been played for it.
fn drilled(mut report: Value) -> Value {
    report["run"]["drill"] = json!({
        "down": ["github"], "fault": "refuse", "outcome": "managed", "attempts": 0, "subjects": [],
        "usual_seconds": null, "usual_runs": 0, "lost_seconds": null
    });
    report
}

/// As if nothing had been seen of it.
fn unseen(mut report: Value) -> Value {
    report["run"]["guarded"] = json!("no");
    for list in ["subjects", "names", "flows"] {
        report[list] = json!([]);
    }
    report
}

#[test]
fn a_run_is_compared_with_deployments_that_were_seen() {
    let (a, b, c) = ("a.example.com", "b.example.com", "c.example.com");
    let host = Host::with(&[&[a, b], &[a, b], &[a, b], &[a, b], &[a, b]]);
    let mut watch = watched(report(5, &[c]));
    watch["subjects"][1]["exe"] = json!("/usr/bin/wget");
    host.run(5, &watch);
    host.run(6, &drilled(report(6, &[a])));
    host.run(7, &unseen(report(7, &[])));
    let mut last = report(8, &[a, c]);
    last["subjects"][1]["exe"] = json!("/usr/bin/wget");
    host.run(8, &last);
    let told = host.json(&["runs", "diff", "latest"], 0);
    assert_eq!(told["new"]["destinations"], json!(["c.example.com:443"]));
    assert_eq!(told["gone"]["destinations"], json!(["b.example.com:443"]));
    assert_eq!(told["new"]["executables"], json!(["/usr/bin/wget"]));
    assert_eq!(told["gone"]["executables"], json!(["/usr/bin/curl"]));
    assert_eq!(
        (&told["earlier_runs"], &told["passed_over"]),
        (&json!(6), &json!(2))
    );
    let text = host.says(&["runs", "diff", "latest"], 0);
    for wanted in [
        "against 6 runs before it",
        "2 runs left out: drills and what was attached to",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }

    // What was attached to is compared with its like, a drill with deployments.
    host.run(9, &watched(report(9, &[a])));
    let told = host.json(&["runs", "diff", "latest"], 0);
    assert_eq!(
        (&told["earlier_runs"], &told["passed_over"]),
        (&json!(1), &json!(8))
    );
    assert_eq!(told["new"]["destinations"], json!(["a.example.com:443"]));
    assert_eq!(told["gone"]["destinations"], json!(["c.example.com:443"]));
    host.run(10, &drilled(report(10, &[b])));
    let told = host.json(&["runs", "diff", "latest"], 0);
    assert_eq!(
        (&told["earlier_runs"], &told["passed_over"]),
        (&json!(7), &json!(3))
    );
    assert_eq!(told["gone"]["destinations"], json!(["a.example.com:443"]));

    // Of a run that was not seen nobody can say what is gone.
    host.run(11, &unseen(report(11, &[])));
    let text = host.says(&["runs", "diff", "latest"], 0);
    assert!(
        text.contains("what is gone may be there all the same: it was unguarded"),
        "{text}"
    );
}

#[test]
fn a_policy_is_held_against_deployments_or_against_what_was_attached_to() {
    let host = Host::new();
    host.policy("p.yaml", "service: mysql\nrules:\n  - deny: .github.com\n");
    host.policy("none.yaml", "service: mysql\nrules: []\n");
    let commands = [
        &["policy", "promote", "p.yaml"][..],
        &["policy", "backtest", "p.yaml"],
        &["policy", "diff", "none.yaml", "p.yaml"],
    ];
    // A process that sleeps under a guard for a month deploys nothing.
    for (n, days_ago) in [(0, 30), (1, 20), (2, 2)] {
        host.run(n, &watched(report_of(n, days_ago, &[])));
    }
    for command in commands {
        let why = host.warns(command, 1);
        assert!(
            why.contains("no such run of mysql") && why.contains("--attached"),
            "{why}"
        );
        let told = host.json(&[command, &["--attached"]].concat(), 0);
        assert_eq!(
            (&told["runs"], &told["attached"], &told["passed_over"]),
            (&json!(3), &json!(true), &json!(0))
        );
    }

    // And what a service does by itself keeps no rule of its deployment down.
    for (n, days_ago) in [(3, 29), (4, 19), (5, 1)] {
        host.run(n, &report_of(n, days_ago, &["mirror.example.com"]));
    }
    host.run(6, &watched(report_of(6, 1, &["api.github.com"])));
    let told = host.json(commands[0], 0);
    assert_eq!(
        (&told["rules"][0]["change"], &told["rules"][0]["runs"]),
        (&json!("proposed"), &json!(0))
    );
    assert_eq!(
        (&told["runs"], &told["passed_over"]),
        (&json!(3), &json!(4))
    );
    assert_eq!(host.json(commands[1], 0)["passed_over"], 4);
    assert_eq!(host.json(commands[2], 0)["passed_over"], 4);
    for command in commands {
        let text = host.says(command, 0);
        assert!(
            text.contains("4 runs of a service that was attached to were left out"),
            "{text}"
        );
    }
    let attached = |command: &[&str], code| host.json(&[command, &["--attached"]].concat(), code);
    assert_eq!(attached(commands[0], 0)["rules"][0]["change"], "not_quiet");
    assert_eq!(attached(commands[1], 1)["passed_over"], 3);
    assert_eq!(attached(commands[2], 1)["passed_over"], 3);

    // Drills and runs of which nothing was seen are no proof, whatever they did not do.
    let host = Host::new();
    host.policy("p.yaml", "service: mysql\nrules:\n  - deny: .github.com\n");
    for (n, days_ago) in [(0, 30), (1, 20), (2, 2)] {
        let run = report_of(n, days_ago, &[]);
        host.run(n, &if n == 1 { drilled(run) } else { unseen(run) });
    }
    let told = host.json(commands[0], 0);
    assert_eq!(
        (&told["runs"], &told["incomplete_runs"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(told["rules"][0]["change"], "no_run");
    assert_eq!(host.json(commands[1], 0)["incomplete_runs"], 2);
}

#[test]
fn a_policy_is_learned_held_against_the_past_and_compared_by_effect() {
    let host = Host::with(&[
        &["mirror.example.com"],
        &["mirror.example.com", "api.github.com"],
    ]);
    let policy = host.says(&["policy", "learn", "--service", "mysql"], 0);
    host.file("learned.yaml", &policy);
    host.call(&["policy", "check", "learned.yaml"], 0);
    let answer = host.json(&["policy", "learn", "--service", "mysql"], 0);
    assert_eq!(answer["policy"], json!(policy));
    assert_eq!(answer["rules"][1]["allow"], "mirror.example.com:443");
    assert_eq!(
        (&answer["rules"][1]["runs"], &answer["refuses"]),
        (&json!(2), &json!(0))
    );

    let quiet = host.json(&["policy", "backtest", "learned.yaml"], 0);
    assert_eq!(
        (&quiet["runs"], &quiet["refused"], &quiet["service"]),
        (&json!(2), &json!(0), &json!("mysql"))
    );
    host.policy(
        "p.yaml",
        "rules:\n  - deny: .github.com\n    reason: it is served by this database\n",
    );
    let loud = host.json(&["policy", "backtest", "p.yaml"], 1);
    assert_eq!(
        (&loud["refused"], &loud["runs_refused"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(loud["refusals"][0]["rule"]["line"], 4);
    assert_eq!(
        loud["refusals"][0]["executables"],
        json!(["/usr/bin/curl", "/bin/sh"])
    );
    let text = host.says(&["policy", "backtest", "p.yaml"], 1);
    for wanted in [
        "would have refused 1 attempt in 1 of 2 runs",
        "refused   api.github.com (lookup)",
        "rule  deny .github.com (p.yaml:4)",
        "why   it is served by this database",
        "by    deploy.sh → curl",
        &id(1),
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(
        host.warns(&["policy", "backtest", "--service", "web", "p.yaml"], 1)
            .contains("there are runs of mysql")
    );

    host.policy(
        "same.yaml",
        "rules:\n  - deny: api.github.com\n  - deny: nobody.example.com\n",
    );
    let same = host.json(&["policy", "diff", "p.yaml", "same.yaml"], 0);
    assert_eq!((&same["changed"], &same["runs"]), (&json!(0), &json!(2)));
    let other = host.json(&["policy", "diff", "p.yaml", "learned.yaml"], 1);
    assert_eq!(other["changes"][0]["before"]["verdict"], "deny");
    assert_eq!(other["changes"][0]["after"]["verdict"], "allow");
    let text = host.says(&["policy", "diff", "p.yaml", "learned.yaml"], 1);
    for wanted in [
        "1 attempt comes out otherwise",
        "from  refused: deny .github.com (p.yaml:4)",
        "to    allowed",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }

    host.policy("short.yaml", "lease: ttl\nrules: []\n");
    let text = host.says(
        &["policy", "backtest", "--service", "mysql", "short.yaml"],
        0,
    );
    assert!(text.contains("`lease: ttl` was left out"), "{text}");

    host.policy("bad.yaml", "rulez: []\n");
    let bad = host.json(&["policy", "backtest", "bad.yaml"], 1);
    assert_eq!((&bad["valid"], &bad["runs"]), (&json!(false), &json!(0)));
    assert!(
        host.warns(&["policy", "diff", "p.yaml", "bad.yaml"], 1)
            .contains("rules")
    );
    assert_eq!(
        host.json(&["policy", "diff", "p.yaml", "bad.yaml"], 1)["valid"],
        false
    );
}

#[test]
fn what_is_not_complete_is_said_at_the_top() {
    let host = Host::new();
    let mut lost = report(0, &["a.example.com"]);
    lost["coverage"]["lost"] = json!(3);
    lost["run"]["guarded"] = json!("partly");
    host.run(0, &lost);
    let output = host.call(&["policy", "learn", "--service", "mysql"], 0);
    let policy = String::from_utf8(output.stdout).unwrap();
    assert!(
        policy.contains("# Incomplete: 1 of the 1 run may"),
        "{policy}"
    );
    assert!(
        policy.contains("not everything could be seen, 3 attempts were lost"),
        "{policy}"
    );
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("more than is known")
    );
    host.file("learned.yaml", &policy);
    assert!(
        host.says(&["policy", "backtest", "learned.yaml"], 0)
            .contains("1 of 1 run may have reached for more")
    );
    assert!(host.says(&["runs", "list"], 0).contains("incomplete"));
}

#[test]
fn pruned_runs_do_not_come_back() {
    let host = Host::with(&[&["a.example.com"], &["b.example.com"]]);
    let dry = host.json(&["runs", "prune", "--larger-than", "0KiB", "--dry-run"], 0);
    assert_eq!(
        (&dry["done"], dry["removed"].as_array().unwrap().len()),
        (&json!(false), 2)
    );
    assert_eq!(host.json(&["runs", "list"], 0)["total"], 2);
    let text = host.says(&["runs", "prune", "--larger-than", "0KiB"], 0);
    assert!(
        text.contains("removed 2 runs (2 to make room); 0 of 2 stay"),
        "{text}"
    );
    assert_eq!(host.json(&["runs", "list"], 0)["total"], 0);
    assert_eq!(
        fs::read_dir(host.path().join("state/runs"))
            .unwrap()
            .count(),
        0
    );
}
