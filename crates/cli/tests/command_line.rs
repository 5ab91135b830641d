//! The program as it is called: exit codes, which stream gets what, and that nothing runs when
//! something is wrong. What needs privilege is tested in the lab.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Calls the program in `dir`, with a clean environment.
fn blackstart(dir: &TempDir, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blackstart"))
        .args(words)
        .current_dir(dir.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("BLACKSTART_STATE", dir.path().join("state"))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn here() -> TempDir {
    tempfile::tempdir().unwrap()
}

const VALID: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: .github.com\n";
const WRONG: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforced\nruls: []\n";

#[test]
fn help_and_version_are_results() {
    let dir = here();
    for words in [&["--help"][..], &["--version"], &["run", "--help"], &["-h"]] {
        let out = blackstart(&dir, words);
        assert_eq!(out.status.code(), Some(0), "{words:?}");
        assert!(!out.stdout.is_empty() && out.stderr.is_empty(), "{words:?}");
    }
    assert_eq!(
        text(&blackstart(&dir, &["--version"]).stdout),
        concat!("blackstart ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn what_is_typed_wrongly_exits_with_125() {
    let dir = here();
    for words in [
        &[][..],
        &["rum"],
        &["run"],
        &["run", "--mode", "x", "--", "true"],
        &["doctor", "--formt"],
    ] {
        let out = blackstart(&dir, words);
        assert_eq!(out.status.code(), Some(125), "{words:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn nothing_runs_when_anything_is_wrong() {
    let dir = here();
    fs::write(dir.path().join("wrong.yaml"), WRONG).unwrap();
    let words = [
        "run",
        "--policy",
        "wrong.yaml",
        "--report",
        "out.html",
        "--",
        "touch",
        "ran",
    ];
    let out = blackstart(&dir, &words);
    assert_eq!(out.status.code(), Some(125));
    let told = text(&out.stderr);
    for part in [
        "wrong.yaml:3:7",
        "wrong.yaml:4:1",
        "`rules`",
        "only .json is known for now",
    ] {
        assert!(told.contains(part), "no {part} in: {told}");
    }
    assert!(!dir.path().join("ran").exists());
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_relative_state_directory_is_refused() {
    let dir = here();
    let out = Command::new(env!("CARGO_BIN_EXE_blackstart"))
        .args(["run", "--", "touch", "ran"])
        .current_dir(dir.path())
        .env("BLACKSTART_STATE", "state")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(125));
    assert!(
        text(&out.stderr).contains("relative path"),
        "{}",
        text(&out.stderr)
    );
    assert!(!dir.path().join("ran").exists());
}

#[test]
fn policies_are_checked_all_at_once() {
    let dir = here();
    fs::write(dir.path().join("valid.yaml"), VALID).unwrap();
    fs::write(dir.path().join("wrong.yaml"), WRONG).unwrap();

    let out = blackstart(&dir, &["policy", "check", "valid.yaml"]);
    assert_eq!(
        (out.status.code(), text(&out.stdout)),
        (Some(0), "valid.yaml: valid\n")
    );

    let out = blackstart(
        &dir,
        &["policy", "check", "wrong.yaml", "valid.yaml", "absent.yaml"],
    );
    assert_eq!(out.status.code(), Some(1));
    let told = text(&out.stdout);
    for part in [
        "wrong.yaml:3:7",
        "wrong.yaml:4:1",
        "valid.yaml: valid",
        "cannot read the policy absent.yaml",
    ] {
        assert!(told.contains(part), "no {part} in: {told}");
    }

    let out = blackstart(
        &dir,
        &[
            "policy",
            "check",
            "--format",
            "json",
            "wrong.yaml",
            "valid.yaml",
        ],
    );
    assert_eq!(out.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["files"][0]["diagnostics"][0]["line"], 3);
    assert_eq!(document["files"][1]["valid"], true);
}

#[test]
fn doctor_says_by_its_exit_code_what_the_host_is_good_for() {
    let dir = here();
    let out = blackstart(&dir, &["doctor", "--format", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let expected = match document["fitness"].as_str().unwrap() {
        "enforce" => 0,
        "observe" => 1,
        "unguarded" => 2,
        other => panic!("fitness is {other}"),
    };
    assert_eq!(out.status.code(), Some(expected));
    assert!(
        document["facts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|fact| fact["fact"].is_string())
    );
}

#[test]
fn the_schema_is_json() {
    let out = blackstart(&here(), &["report", "schema"]);
    assert_eq!(out.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(schema["properties"]["schema_version"].is_object());
}

#[test]
fn a_wrong_log_filter_is_told() {
    let dir = here();
    let out = Command::new(env!("CARGO_BIN_EXE_blackstart"))
        .args(["report", "schema"])
        .current_dir(dir.path())
        .env("BLACKSTART_LOG", "a=b=c")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(125));
    assert!(text(&out.stderr).contains("BLACKSTART_LOG"));
}
