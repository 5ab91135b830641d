//! The demo's history, as it was recorded (`make demo-history`): what each command makes of it. Four runs were observed, two
//! enforced, one played an outage, and in the last two the deployment had been mended.

use std::fs;
use std::path::{Path, PathBuf};

use blackstart_core::report::Report;
use jiff::{Timestamp, ToSpan as _};

use super::host::{Host, id};

const RUNS: usize = 9;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/demo-history")
}

fn policy() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo/policy.yaml");
    path.display().to_string()
}

/// A host that has this history, its last run of yesterday.
fn host() -> Host {
    let host = Host::new();
    for n in 0..RUNS {
        let text = fs::read_to_string(data().join(format!("{n}.json"))).unwrap();
        let then = Timestamp::now() - i64::try_from((RUNS - n) * 24).unwrap().hours();
        let day: String = then.to_string().chars().take(10).collect();
        host.keep(
            n,
            &text.replace(&format!("2026-11-{:02}T", n + 1), &format!("{day}T")),
        );
    }
    host
}

#[test]
fn it_is_in_a_normal_form_and_of_this_version() {
    for n in 0..RUNS {
        let text = fs::read_to_string(data().join(format!("{n}.json"))).unwrap();
        let report: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(report.run.id, id(n));
        assert_eq!(report.run.host, "db1");
        let day = format!("2026-11-{:02}T03:00:00.000000Z", n + 1);
        assert_eq!(report.run.started, day);
        // Nothing of the machine that it was recorded on.
        for trace in ["/home/", "/root/", "bsl", "fe80::b"] {
            assert!(!text.contains(trace), "{n}: {trace}");
        }
    }
}

#[test]
fn its_runs_are_listed_as_they_went() {
    let host = host();
    let listed = host.json(&["runs", "list"], 0);
    let runs = listed["runs"].as_array().unwrap();
    let exits: Vec<_> = runs.iter().map(|run| run["exit_code"].as_i64()).collect();
    assert_eq!(exits, [0, 0, 1, 1, 1, 0, 0, 0, 0].map(Some));
    let refused: Vec<bool> = runs.iter().map(|run| run["refused"] != 0).collect();
    assert_eq!(
        refused,
        [false, false, true, true, true, false, false, false, false]
    );
    let drills: Vec<_> = runs.iter().map(|run| run["drill"] == true).collect();
    assert_eq!(drills.iter().filter(|drill| **drill).count(), 1);
    assert!(drills[2]);
    let text = host.says(&["runs", "list"], 0);
    assert_eq!(text.lines().count(), RUNS + 1, "{text}");
    // Nothing is missing of any of them.
    assert!(!text.contains("incomplete"), "{text}");
}

#[test]
fn what_was_mended_is_gone() {
    let host = host();
    let text = host.says(&["runs", "diff", &id(3), &id(7)], 0);
    for gone in [
        "  - github.com:443\n",
        "  - github.com:9418\n",
        "  - api.github.com:443\n",
        "  - migrations.internal:8080\n",
    ] {
        assert!(text.contains(gone), "{gone}: {text}");
    }
    assert!(!text.contains("  + "), "{text}");
    assert!(!text.contains("mirror.internal"), "{text}");
    // The same run again is the same.
    let text = host.says(&["runs", "diff", &id(0), &id(1)], 0);
    assert!(!text.contains("  + ") && !text.contains("  - "), "{text}");
}

#[test]
fn what_is_learned_leaves_out_what_was_denied() {
    let host = host();
    let learned = host.says(&["policy", "learn", "--service", "mysql"], 0);
    for allowed in [
        "  - allow: mirror.internal:80\n",
        "  - allow: metrics.internal:2003\n",
    ] {
        assert!(learned.contains(allowed), "{allowed}: {learned}");
    }
    let rules = learned.split("# Left out").next().unwrap();
    for denied in ["github.com", "migrations.internal"] {
        assert!(!rules.contains(denied), "{learned}");
        assert!(
            learned.contains(&format!("#   {denied}: refused by")),
            "{learned}"
        );
    }
    host.file("learned.yaml", &learned);
    host.call(&["policy", "check", "learned.yaml"], 0);
    // What it refuses is what was denied, and nothing of the deployment that was mended.
    let told = host.json(
        &["policy", "backtest", "learned.yaml", "--service", "mysql"],
        1,
    );
    let text = told.to_string();
    assert!(
        text.contains("github.com") && !text.contains(&id(8)),
        "{told:#}"
    );
}

#[test]
fn the_demo_s_policy_would_have_refused_what_it_refused() {
    let host = host();
    let text = host.says(&["policy", "backtest", &policy()], 1);
    for refused in [
        "refused   github.com (lookup)\n",
        "refused   api.github.com (lookup)\n",
        "refused   migrations.internal (lookup)\n",
    ] {
        assert!(text.contains(refused), "{refused}: {text}");
    }
    assert!(text.contains("by    deploy.sh → schema-check\n"), "{text}");
    assert!(
        !text.contains("mirror.internal (") && !text.contains("metrics"),
        "{text}"
    );
}

#[test]
fn only_a_rule_that_was_quiet_goes_higher() {
    let host = host();
    let text =
        "service: mysql\nmode: observe\nrules:\n  - deny: .github.com\n  - deny: .example.com\n";
    host.policy("p.yaml", text);
    let raised = |quiet_for: &str, name: &str| {
        let told = host.says(
            &["policy", "promote", "p.yaml", "--quiet-for", quiet_for],
            0,
        );
        let mut lines = told.lines().skip_while(|line| !line.contains(name));
        lines
            .nth(1)
            .is_some_and(|line| line.contains("may be enforce"))
    };
    // The last attempt was in the rehearsal, three days ago.
    assert!(raised("6d", "deny .example.com"));
    assert!(!raised("6d", "deny .github.com"));
    assert!(raised("2d", "deny .github.com"));
}
