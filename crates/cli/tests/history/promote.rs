//! `policy promote`: rules that were quiet go one rung higher, with the proof. The runs are made up.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::host::{Host, report_of};

const POLICY: &str = "\
apiVersion: blackstart.dev/v1
kind: Policy
service: mysql
rules:
  # The mirror has all of it.
  - deny: .github.com   # served by this database
    reason: a loop
  - deny: telemetry.example
    mode: enforce
  - deny: old.example
    mode: enforce
    reaction: fail
";

const PROMOTE: &[&str] = &["policy", "promote", "p.yaml"];

/// A host with that policy.
struct Team(Host);

impl Team {
    /// Runs so many days ago, which reached for these.
    fn with(runs: &[(u64, &str)]) -> Self {
        let team = Self(Host::new());
        for (n, (days, destination)) in runs.iter().enumerate() {
            team.run(n, *days, destination, json!([]));
        }
        team.0.file("p.yaml", POLICY);
        team
    }

    /// One that looked up a name and went no further.
    fn run(&self, n: usize, days_ago: u64, destination: &str, gaps: Value) {
        let mut report = report_of(n, days_ago, &[destination]);
        report["flows"] = json!([]);
        report["coverage"]["gaps"] = gaps;
        self.0.run(n, &report);
    }

    fn call(&self, words: &[&str], code: i32) -> Output {
        self.0.call(&[PROMOTE, words].concat(), code)
    }

    fn says(&self, words: &[&str], code: i32) -> String {
        self.0.says(&[PROMOTE, words].concat(), code)
    }

    fn json(&self, words: &[&str], code: i32) -> Value {
        self.0.json(&[PROMOTE, words].concat(), code)
    }

    fn policy(&self) -> String {
        fs::read_to_string(self.0.path().join("p.yaml")).unwrap()
    }
}

/// What becomes of each rule.
fn changes(document: &Value) -> Vec<&str> {
    let rules = document["rules"].as_array().unwrap();
    rules
        .iter()
        .map(|rule| rule["change"].as_str().unwrap())
        .collect()
}

#[test]
fn quiet_rules_go_one_rung_higher_and_the_rest_of_the_text_stays() {
    let team = Team::with(&[
        (40, "api.github.com"),
        (20, "mirror.example"),
        (3, "telemetry.example"),
        (1, "mirror.example"),
    ]);
    let answer = team.json(&[], 0);
    assert_eq!(changes(&answer), ["proposed", "not_quiet", "at_top"]);
    assert_eq!(
        (&answer["runs"], &answer["runs_lately"]),
        (&json!(4), &json!(2))
    );
    let rule = &answer["rules"][0];
    assert_eq!(
        (&rule["rung"], &rule["next"], &rule["runs"]),
        (&json!("observe"), &json!("warn"), &json!(1))
    );
    let text = team.says(&[], 0);
    for wanted in [
        "observe → may be enforce + warn",
        "would have refused 1 attempts in 1 of 4 runs",
        "stays enforce + warn: it is not quiet",
        "@@ ",
        "+    mode: enforce\n",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(team.policy(), POLICY, "nothing is written unless asked for");
    // The text is a patch.
    let patch = team.0.file("promote.patch", &text);
    let wanted = POLICY.replace(
        "served by this database\n",
        "served by this database\n    mode: enforce\n",
    );
    let git = |words: &[&str]| {
        let status = Command::new("git")
            .args(words)
            .current_dir(team.0.path())
            .status();
        assert!(status.unwrap().success(), "git {words:?}: {text}");
    };
    git(&["init", "-q"]);
    git(&["apply", &patch.display().to_string()]);
    assert_eq!(team.policy(), wanted);
    team.0.file("p.yaml", POLICY);
    let file = team.0.path().join("p.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
    }
    let owned = || {
        let it = fs::metadata(&file).unwrap();
        (it.uid(), it.gid(), it.mode() & 0o7777)
    };
    let before = owned();
    let answer = team.json(&["--write"], 0);
    assert_eq!(
        (&answer["written"], &answer["patch"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(owned(), before);
    assert_eq!(team.policy(), wanted);
    // The next rung, and the one after it.
    team.json(&["--write", "--quiet-for", "2d"], 0);
    let twice = team.policy();
    assert!(
        twice.contains("mode: enforce\n    reaction: fail\n    reason: a loop")
            || twice.contains("reaction: fail\n    mode: enforce\n    reason: a loop"),
        "{twice}"
    );
    assert_eq!(
        changes(&team.json(&["--quiet-for", "2d"], 0)),
        ["at_top", "at_top", "at_top"]
    );
}

#[test]
fn what_was_not_seen_as_a_whole_is_no_proof() {
    let team = Team::with(&[(40, "mirror.example")]);
    // Nobody ran it lately.
    assert_eq!(changes(&team.json(&[], 0)), ["no_run", "no_run", "at_top"]);
    // And then not everything is known.
    team.run(
        7,
        1,
        "mirror.example",
        json!([{ "kind": "names", "detail": "x", "count": 0 }]),
    );
    let answer = team.json(&[], 0);
    assert_eq!(changes(&answer), ["no_run", "no_run", "at_top"]);
    assert_eq!(answer["incomplete_runs"], 1);
    assert_eq!(answer["patch"], Value::Null);
    let team = Team::with(&[(5, "mirror.example"), (1, "mirror.example")]);
    assert_eq!(
        changes(&team.json(&[], 0)),
        ["too_short", "too_short", "at_top"]
    );
    assert!(team.says(&[], 0).contains("only since"));
}

#[test]
fn rules_of_other_files_are_told_and_left() {
    let team = Team::with(&[(40, "mirror.example"), (1, "mirror.example")]);
    team.0.file(
        "base.yaml",
        "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: a.example\n",
    );
    let own = "apiVersion: blackstart.dev/v1\nkind: Policy\ninclude: [base.yaml]\nrules:\n  - deny: b.example\n";
    team.0.file("p.yaml", own);
    let answer = team.json(&["--write"], 0);
    let mut changes = changes(&answer);
    changes.sort_unstable();
    assert_eq!(changes, ["elsewhere", "proposed"]);
    assert_eq!(team.policy(), format!("{own}    mode: enforce\n"));
}

#[test]
fn without_runs_or_a_policy_nothing_is_promoted() {
    let team = Team::with(&[]);
    let told = team.call(&[], 1);
    assert!(String::from_utf8_lossy(&told.stderr).contains("no such run"));
    team.0.file("p.yaml", "rules: 7\n");
    assert_eq!(team.json(&[], 1)["valid"], false);
    team.call(&["--quiet-for", "soon"], 125);
}
