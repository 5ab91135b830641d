//! A host with a history, and the program called on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonschema::Validator;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with the state of such a host, in which commands are called.
pub(crate) struct Host(TempDir);

impl Host {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with runs of `mysql` that went to these destinations.
    pub(crate) fn with(runs: &[&[&str]]) -> Self {
        let host = Self::new();
        for (n, destinations) in runs.iter().enumerate() {
            host.run(n, &report(n, destinations));
        }
        host
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn run(&self, n: usize, report: &Value) {
        self.keep(n, &in_order(report));
    }

    /// This is what lies where the report of the `n`th run is kept.
    pub(crate) fn keep(&self, n: usize, text: &str) {
        self.file(&format!("state/runs/{}/report.json", id(n)), text);
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn policy(&self, name: &str, text: &str) {
        self.file(
            name,
            &format!("apiVersion: blackstart.dev/v1\nkind: Policy\n{text}"),
        );
    }

    pub(crate) fn call(&self, words: &[&str], code: i32) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(self.path())
            .env_clear()
            .env("BLACKSTART_STATE", self.path().join("state"))
            .env("BLACKSTART_GUARDRAILS", self.path().join("none"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        output
    }

    pub(crate) fn says(&self, words: &[&str], code: i32) -> String {
        String::from_utf8(self.call(words, code).stdout).unwrap()
    }

    pub(crate) fn warns(&self, words: &[&str], code: i32) -> String {
        String::from_utf8(self.call(words, code).stderr).unwrap()
    }

    /// The answer to a program, as its schema has it.
    pub(crate) fn json(&self, words: &[&str], code: i32) -> Value {
        let text = self.says(&[words, &["--format", "json"]].concat(), code);
        let document: Value = serde_json::from_str(&text).unwrap();
        let schema = format!("{}-{}.schema.json", words[0], words[1]);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs/reference")
            .join(schema);
        let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let validator: Validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&document)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}: {document:#}");
        document
    }
}

pub(crate) fn id(n: usize) -> String {
    format!("0193f8c2-0000-7000-8000-{n:012x}")
}

/// The `n`th run, which looked up and reached each of these.
pub(crate) fn report(n: usize, destinations: &[&str]) -> Value {
    let time = |second: usize| format!("2026-11-{:02}T12:00:{second:02}.000000Z", n + 1);
    let names = destinations.iter().enumerate().map(|(at, name)| {
        json!({
            "name": name, "type": "A", "subject": 2, "verdict": "allow", "rule": "default", "queries": 1,
            "first_seen": time(at), "last_seen": time(at),
            "addresses": [format!("10.1.{at}.{n}")], "chain": []
        })
    });
    let flows = destinations.iter().enumerate().map(|(at, name)| {
        json!({
            "subject": 2, "name": name, "address": format!("10.1.{at}.{n}"), "port": 443, "protocol": "tcp",
            "verdict": "allow", "rule": "default", "attempts": 1, "outcome": "connected", "bytes_sent": 900,
            "first_seen": time(at), "last_seen": time(at), "attribution": "exact"
        })
    });
    let subject = |id: u64, parent: Option<u64>, argv: &[&str]| {
        json!({
            "id": id, "pid": 100 + id, "parent": parent, "exe": argv[0], "argv": argv, "argv_truncated": false,
            "started": time(0), "ended": time(9), "exit": 0
        })
    };
    json!({
        "schema_version": 1,
        "run": {
            "id": id(n), "service": "mysql", "owner": null, "command": ["./deploy.sh"], "host": "db1",
            "mode": "observe", "policy": null, "started": time(0), "ended": time(9), "exit_code": 0,
            "limits": {}, "usage": {}, "kernel": { "release": "6.12", "features": [] }, "guarded": "yes",
            "addresses": ["10.0.0.9"], "resolvers": ["10.0.0.53"]
        },
        "subjects": [
            subject(1, None, &["/bin/sh", "./deploy.sh"]),
            subject(2, Some(1), &["/usr/bin/curl", "-sS"])
        ],
        "names": names.collect::<Vec<_>>(),
        "flows": flows.collect::<Vec<_>>(),
        "delegates": [],
        "findings": [],
        "coverage": {
            "attempts": 2, "recorded": 2, "lost": 0, "attributed": 2, "unsupervised_seconds": 0.0, "gaps": []
        }
    })
}

/// The `n`th run, so many days ago.
pub(crate) fn report_of(n: usize, days_ago: u64, destinations: &[&str]) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let began = now.as_micros() - u128::from(days_ago) * 86_400_000_000 - 60_000_000;
    let time = blackstart_core::history::time_text(i64::try_from(began).unwrap());
    let mut report = report(n, destinations);
    for key in ["started", "ended"] {
        report["run"][key] = json!(time);
    }
    for list in ["names", "flows"] {
        for row in report[list].as_array_mut().unwrap() {
            (row["first_seen"], row["last_seen"]) = (json!(time), json!(time));
        }
    }
    report
}

/// In the order in which a report is written: `json!` sorts keys.
pub(crate) fn in_order(report: &Value) -> String {
    let keys = [
        "schema_version",
        "run",
        "subjects",
        "names",
        "flows",
        "delegates",
        "findings",
        "coverage",
    ];
    let parts = keys.map(|key| format!("\"{key}\":{}", report[key]));
    format!("{{{}}}", parts.join(","))
}
