//! `policy promote`: rules that were quiet go one rung higher, with the proof. The runs are made up.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output};

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tempfile::TempDir;

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

struct Host(TempDir);

impl Host {
    /// Runs so many days ago, which reached for these.
    fn with(runs: &[(i64, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (n, (days, destination)) in runs.iter().enumerate() {
            host.run(n, *days, destination, json!([]));
        }
        host.file("p.yaml", POLICY);
        host
    }

    fn run(&self, n: usize, days_ago: i64, destination: &str, gaps: Value) {
        let then = Timestamp::now() - (days_ago * 24).hours();
        let time = format!("{then:.6}");
        let id = format!("0193f8c2-0000-7000-8000-{n:012x}");
        // In the order of a report: a map would sort the keys.
        let text = [
            ("schema_version", json!(1)),
            ("run", json!({
                "id": id, "service": "mysql", "owner": null, "command": ["./deploy.sh"], "host": "db1",
                "mode": "observe", "policy": null, "started": time, "ended": time, "exit_code": 0,
                "limits": {}, "usage": {}, "kernel": { "release": "6.12", "features": [] }, "guarded": "yes",
                "addresses": ["10.0.0.9"], "resolvers": ["10.0.0.53"]
            })),
            ("subjects", json!([{
                "id": 1, "pid": 101, "parent": null, "exe": "/bin/sh", "argv": ["/bin/sh"], "argv_truncated": false,
                "started": time, "ended": time, "exit": 0
            }])),
            ("names", json!([{
                "name": destination, "type": "A", "subject": 1, "verdict": "allow", "rule": "default", "queries": 1,
                "first_seen": time, "last_seen": time, "addresses": ["10.1.0.1"], "chain": []
            }])),
            ("flows", json!([])),
            ("delegates", json!([])),
            ("findings", json!([])),
            ("coverage", json!({
                "attempts": 1, "recorded": 1, "lost": 0, "attributed": 1, "unsupervised_seconds": 0.0, "gaps": gaps
            })),
        ]
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .join(",");
        self.file(
            &format!("state/runs/{id}/report.json"),
            &format!("{{{text}}}"),
        );
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn call(&self, words: &[&str], code: i32) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(["policy", "promote", "p.yaml"])
            .args(words)
            .current_dir(self.0.path())
            .env_clear()
            .env("BLACKSTART_STATE", self.0.path().join("state"))
            .env("BLACKSTART_GUARDRAILS", self.0.path().join("none"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        output
    }

    fn says(&self, words: &[&str], code: i32) -> String {
        String::from_utf8(self.call(words, code).stdout).unwrap()
    }

    fn json(&self, words: &[&str], code: i32) -> Value {
        let text = self.says(&[words, &["--format", "json"]].concat(), code);
        let document: Value = serde_json::from_str(&text).unwrap();
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs/reference/policy-promote.schema.json");
        let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&document), "{document:#}");
        document
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
    let host = Host::with(&[
        (40, "api.github.com"),
        (20, "mirror.example"),
        (3, "telemetry.example"),
        (1, "mirror.example"),
    ]);
    let answer = host.json(&[], 0);
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
    let text = host.says(&[], 0);
    for wanted in [
        "observe → may be enforce + warn",
        "would have refused 1 attempts in 1 of 4 runs",
        "stays enforce + warn: it is not quiet",
        "@@ ",
        "+    mode: enforce\n",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(host.policy(), POLICY, "nothing is written unless asked for");
    // The text is a patch.
    let patch = host.file("promote.patch", &text);
    let wanted = POLICY.replace(
        "served by this database\n",
        "served by this database\n    mode: enforce\n",
    );
    let git = |words: &[&str]| {
        let status = Command::new("git")
            .args(words)
            .current_dir(host.0.path())
            .status();
        assert!(status.unwrap().success(), "git {words:?}: {text}");
    };
    git(&["init", "-q"]);
    git(&["apply", &patch.display().to_string()]);
    assert_eq!(host.policy(), wanted);
    host.file("p.yaml", POLICY);
    let file = host.0.path().join("p.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
    }
    let owned = || {
        let it = fs::metadata(&file).unwrap();
        (it.uid(), it.gid(), it.mode() & 0o7777)
    };
    let before = owned();
    let answer = host.json(&["--write"], 0);
    assert_eq!(
        (&answer["written"], &answer["patch"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(owned(), before);
    assert_eq!(host.policy(), wanted);
    // The next rung, and the one after it.
    host.json(&["--write", "--quiet-for", "2d"], 0);
    let twice = host.policy();
    assert!(
        twice.contains("mode: enforce\n    reaction: fail\n    reason: a loop")
            || twice.contains("reaction: fail\n    mode: enforce\n    reason: a loop"),
        "{twice}"
    );
    assert_eq!(
        changes(&host.json(&["--quiet-for", "2d"], 0)),
        ["at_top", "at_top", "at_top"]
    );
}

#[test]
fn what_was_not_seen_as_a_whole_is_no_proof() {
    let host = Host::with(&[(40, "mirror.example")]);
    // Nobody ran it lately.
    assert_eq!(changes(&host.json(&[], 0)), ["no_run", "no_run", "at_top"]);
    // And then not everything is known.
    host.run(
        7,
        1,
        "mirror.example",
        json!([{ "kind": "names", "detail": "x", "count": 0 }]),
    );
    let answer = host.json(&[], 0);
    assert_eq!(changes(&answer), ["no_run", "no_run", "at_top"]);
    assert_eq!(answer["incomplete_runs"], 1);
    assert_eq!(answer["patch"], Value::Null);
    let host = Host::with(&[(5, "mirror.example"), (1, "mirror.example")]);
    assert_eq!(
        changes(&host.json(&[], 0)),
        ["too_short", "too_short", "at_top"]
    );
    assert!(host.says(&[], 0).contains("only since"));
}

#[test]
fn rules_of_other_files_are_told_and_left() {
    let host = Host::with(&[(40, "mirror.example"), (1, "mirror.example")]);
    host.file(
        "base.yaml",
        "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: a.example\n",
    );
    let own = "apiVersion: blackstart.dev/v1\nkind: Policy\ninclude: [base.yaml]\nrules:\n  - deny: b.example\n";
    host.file("p.yaml", own);
    let answer = host.json(&["--write"], 0);
    let mut changes = changes(&answer);
    changes.sort_unstable();
    assert_eq!(changes, ["elsewhere", "proposed"]);
    assert_eq!(host.policy(), format!("{own}    mode: enforce\n"));
}

#[test]
fn without_runs_or_a_policy_nothing_is_promoted() {
    let host = Host::with(&[]);
    let told = host.call(&[], 1);
    assert!(String::from_utf8_lossy(&told.stderr).contains("no such run"));
    host.file("p.yaml", "rules: 7\n");
    assert_eq!(host.json(&[], 1)["valid"], false);
    host.call(&["--quiet-for", "soon"], 125);
}
