//! A catalog and reports in a directory, and what `blackstart graph` makes of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// A directory with a catalog, and where reports and baselines go.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scene {
    /// Services, each by its keys.
    pub(crate) fn of(services: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text: String = services
            .iter()
            .map(|keys| format!("---\napiVersion: blackstart.dev/v1\nkind: Service\n{keys}\n"))
            .collect();
        fs::write(dir.path().join("c.yaml"), text).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `graph` with these words, and the catalog.
    pub(crate) fn graph(&self, words: &[&str]) -> Ended {
        let (verb, rest) = words.split_first().unwrap();
        self.run(&[&["graph", verb, "--catalog", "c.yaml"], rest].concat())
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        let ended = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(self.path())
            .env_remove("BLACKSTART_CATALOG")
            // What was left on this machine is not to be told here.
            .env("BLACKSTART_STATE", self.path().join("state"))
            .output()
            .unwrap();
        Ended {
            code: ended.status.code(),
            out: String::from_utf8(ended.stdout).unwrap(),
            err: String::from_utf8(ended.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let ended = self.graph(&[words, &["--format", "json"]].concat());
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }
}

/// What a run reached for: names, each with its verdict.
pub(crate) fn report(scene: &Scene, file: &str, service: Option<&str>, reached: &[&str]) {
    let time = "2026-05-04T12:00:01.000000Z";
    let flow = |name: &&str| {
        json!({
            "subject": 1, "name": name, "address": "192.0.2.1", "port": 443, "protocol": "tcp",
            "verdict": "allow", "rule": "default", "attempts": 1, "outcome": "connected",
            "bytes_sent": 100, "first_seen": time, "last_seen": time, "attribution": "exact",
        })
    };
    let document = json!({
        "schema_version": 1,
        "run": {
            "id": format!("run-{file}"), "service": service, "owner": null, "command": ["./d.sh"],
            "host": "db1", "mode": "observe", "policy": null, "started": time, "ended": time,
            "exit_code": 0, "limits": {}, "guarded": "yes",
            "usage": {}, "kernel": { "release": "6.12", "features": [] },
        },
        "subjects": [{
            "id": 1, "pid": 100, "parent": null, "exe": "/usr/bin/tool", "argv": ["tool"],
            "argv_truncated": false, "started": time, "ended": time, "exit": 0,
        }],
        "names": [],
        "flows": reached.iter().map(flow).collect::<Vec<_>>(),
        "delegates": [],
        "findings": [],
        "coverage": {
            "attempts": 1, "recorded": 1, "lost": 0, "attributed": 1, "unsupervised_seconds": 0.0,
            "gaps": [],
        },
    });
    fs::write(scene.path().join(file), document.to_string()).unwrap();
}
