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
        "out.txt",
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
        "neither .json nor .html",
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
        .env("BLACKSTART_STATE", dir.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(125));
    assert!(text(&out.stderr).contains("BLACKSTART_LOG"));
}

const TESTED: &str = "apiVersion: blackstart.dev/v1
kind: Policy
mode: enforce
rules:
  - deny: .github.com
    reason: served by this database
    fix: use the mirror
    reaction: fail
  - { allow: api.github.com, process: terraform }
  - deny: 10.20.0.0/16
tests:
  - { to: github.com:443, expect: deny, rule: deny .github.com }
  - { to: api.github.com:443, process: /usr/bin/terraform, expect: allow }
  - { to: 10.20.0.1:22, expect: deny }
";

#[test]
fn an_explanation_says_what_decides_and_what_it_goes_before() {
    let dir = here();
    fs::write(dir.path().join("p.yaml"), TESTED).unwrap();
    let explain = |words: &[&str]| {
        let words = [&["policy", "explain", "--policy", "p.yaml"], words].concat();
        let out = blackstart(&dir, &words);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        text(&out.stdout).to_owned()
    };
    let refused = explain(&["api.github.com:443"]);
    insta::assert_snapshot!("explain_refused", refused);
    let allowed = explain(&[
        "api.github.com:443",
        "--address",
        "10.20.0.1",
        "--process",
        "/usr/bin/terraform",
    ]);
    insta::assert_snapshot!("explain_by_address", allowed);
    let document = explain(&["--format", "json", "api.github.com:443"]);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["explanation"]["verdict"], "deny");
    let rule = &document["explanation"]["lookup"]["rule"];
    assert_eq!(
        (&rule["text"], &rule["line"]),
        (&"deny .github.com".into(), &5.into())
    );
}

#[test]
fn a_bad_question_is_typed_wrongly_and_a_bad_policy_is_not_valid() {
    let dir = here();
    fs::write(dir.path().join("p.yaml"), TESTED).unwrap();
    fs::write(dir.path().join("wrong.yaml"), WRONG).unwrap();
    for (words, code) in [
        (&["--policy", "p.yaml", "*.github.com"][..], 125),
        (&["--policy", "p.yaml", "service:billing"], 125),
        (&["--policy", "p.yaml", "a.b:1-2"], 125),
        (
            &["--policy", "p.yaml", "10.0.0.1", "--address", "10.0.0.2"],
            125,
        ),
        (
            &["--policy", "p.yaml", "unix:/run/x", "--protocol", "udp"],
            125,
        ),
        (&["--policy", "p.yaml"], 125),
        (&["--policy", "wrong.yaml", "github.com"], 1),
        (&["--policy", "absent.yaml", "github.com"], 1),
        (&["github.com"], 0),
    ] {
        let out = blackstart(&dir, &[&["policy", "explain"], words].concat());
        assert_eq!(out.status.code(), Some(code), "{words:?}");
        assert_eq!(out.stderr.is_empty(), code == 0, "{words:?}");
    }
}

#[test]
fn guardrails_are_explained_and_are_tested_only_on_request() {
    let dir = here();
    fs::write(dir.path().join("p.yaml"), TESTED).unwrap();
    let guardrails = dir.path().join("guardrails");
    fs::create_dir(&guardrails).unwrap();
    fs::write(
        guardrails.join("g.yaml"),
        "apiVersion: blackstart.dev/v1\nkind: Policy\nrules: [{ deny: api.github.com, final: true }]\n",
    )
    .unwrap();
    let guarded = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_blackstart"))
            .args(words)
            .current_dir(dir.path())
            .env_clear()
            .env("BLACKSTART_STATE", dir.path().join("state"))
            .env("BLACKSTART_GUARDRAILS", &guardrails)
            .output()
            .unwrap();
        (out.status.code(), text(&out.stdout).to_owned())
    };
    let (code, told) = guarded(&[
        "policy",
        "explain",
        "--policy",
        "p.yaml",
        "--process",
        "terraform",
        "api.github.com",
    ]);
    assert_eq!(code, Some(0));
    assert!(told.contains("a final guardrail goes before it"), "{told}");
    assert_eq!(guarded(&["policy", "test", "p.yaml"]).0, Some(0));
    let (code, told) = guarded(&["policy", "test", "--with-guardrails", "p.yaml"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("p.yaml: 1 of 3 tests failed"), "{told}");
}

/// A guardrail has tests like any policy, and is explained and tested as one: by where it lies, or by `--guardrail`.
#[test]
fn a_guardrail_is_tested_and_explained_as_one() {
    let dir = here();
    let guardrails = dir.path().join("guardrails");
    fs::create_dir(&guardrails).unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let guardrail = "\
apiVersion: blackstart.dev/v1
kind: Policy
mode: enforce
rules:
  - { deny: api.github.com, final: true }
  - { deny: .example.org, process: ancestor:deploy.sh }
waivers:
  - { for: api.github.com, owner: a, reason: b, expires: 9999-12-31 }
tests:
  - { to: api.github.com:443, expect: deny }
  - { to: a.example.org:443, process: curl, expect: allow }
  - { to: a.example.org:443, process: curl, ancestor: /srv/deploy.sh, expect: deny }
";
    fs::write(guardrails.join("g.yaml"), guardrail).unwrap();
    fs::write(dir.path().join("g.yaml"), guardrail).unwrap();
    let own = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - allow: a.example.org:443\n";
    fs::write(dir.path().join("own.yaml"), own).unwrap();
    let told = |user: Option<u32>, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blackstart"));
        if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
            use std::os::unix::process::CommandExt as _;
            let copy = dir.path().join("blackstart");
            if !copy.exists() {
                let from = env!("CARGO_BIN_EXE_blackstart");
                let copied = Command::new("install")
                    .args(["-m", "755", from])
                    .arg(&copy)
                    .status();
                assert!(copied.unwrap().success());
            }
            command = Command::new(copy);
            command.uid(user).gid(user);
        }
        let out = command
            .arg("policy")
            .args(words)
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("BLACKSTART_STATE", dir.path().join("state"))
            .env("BLACKSTART_GUARDRAILS", &guardrails)
            .output()
            .unwrap();
        let stderr = text(&out.stderr).to_owned();
        (out.status.code(), text(&out.stdout).to_owned() + &stderr)
    };
    let lies = guardrails.join("g.yaml");
    let lies = lies.to_str().unwrap();
    for words in [
        &["test", lies][..],
        &["test", "--with-guardrails", lies],
        &["test", "--guardrail", "g.yaml"],
        &["test", "--guardrail", "--with-guardrails", "g.yaml"],
    ] {
        let (code, told) = told(None, words);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.ends_with("g.yaml: 3 tests passed\n"), "{told}");
    }
    let (code, not) = told(None, &["test", "g.yaml"]);
    assert_eq!(code, Some(1));
    assert!(
        not.contains("only a guardrail's rule can be final"),
        "{not}"
    );
    for policy in [
        &["--policy", lies][..],
        &["--policy", "g.yaml", "--guardrail"],
        &[],
    ] {
        let words = [&["explain", "api.github.com:443"], policy].concat();
        let (code, told) = told(None, &words);
        assert_eq!(code, Some(0), "{told}");
        assert!(
            told.contains("no waiver and no other rule goes before it"),
            "{told}"
        );
    }

    // The answer does not depend on who asks; that a run's would is said.
    let asked = [
        "explain",
        "--policy",
        "own.yaml",
        "--process=curl",
        "--ancestor=/srv/deploy.sh",
    ];
    let asked = [&asked[..], &["a.example.org:443"]].concat();
    let (_, of_root) = told(None, &asked);
    let (_, of_nobody) = told(Some(65534), &asked);
    assert_eq!(of_root, of_nobody);
    assert!(
        of_root.contains("allow a.example.org:443 (own.yaml:4)"),
        "{of_root}"
    );
    assert!(of_root.contains("--as-user"), "{of_root}");
    let (_, as_user) = told(None, &[&asked[..], &["--as-user"]].concat());
    assert!(
        as_user.contains("deny .example.org, process ancestor:deploy.sh"),
        "{as_user}"
    );
    assert!(
        as_user.contains("a final guardrail goes before it"),
        "{as_user}"
    );
    assert!(!as_user.contains("--as-user"), "{as_user}");
}

#[test]
fn tests_of_a_policy_pass_or_say_why_not() {
    let dir = here();
    fs::write(dir.path().join("good.yaml"), TESTED).unwrap();
    fs::write(dir.path().join("none.yaml"), VALID).unwrap();
    fs::write(dir.path().join("wrong.yaml"), WRONG).unwrap();
    let bad = TESTED.replace("expect: allow", "expect: deny");
    fs::write(dir.path().join("bad.yaml"), bad).unwrap();
    let out = blackstart(&dir, &["policy", "test", "good.yaml", "none.yaml"]);
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(
        text(&out.stdout),
        "good.yaml: 3 tests passed\nnone.yaml: no tests\n"
    );
    let out = blackstart(&dir, &["policy", "test", "good.yaml", "bad.yaml"]);
    assert_eq!(out.status.code(), Some(1));
    insta::assert_snapshot!("a_failed_test", text(&out.stdout));
    for file in ["wrong.yaml", "absent.yaml"] {
        let out = blackstart(&dir, &["policy", "test", "good.yaml", file]);
        assert_eq!(out.status.code(), Some(1), "{file}");
        assert!(text(&out.stdout).contains("not valid"), "{file}");
    }
    let out = blackstart(
        &dir,
        &[
            "policy",
            "test",
            "--format",
            "json",
            "bad.yaml",
            "wrong.yaml",
        ],
    );
    assert_eq!(out.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_str(text(&out.stdout)).unwrap();
    assert_eq!(document["passed"], false);
    assert_eq!(document["files"][0]["cases"][1]["passed"], false);
    assert_eq!(document["files"][1]["valid"], false);
}

/// The packs are fixtures, too: each is valid with nothing to look at, and does what it says.
#[test]
fn the_packs_do_what_they_say() {
    let dir = here();
    let packs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies");
    let mut files: Vec<String> = fs::read_dir(packs)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_string_lossy().into_owned())
        .filter(|path| path.ends_with(".yaml"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 5);
    for subcommand in ["check", "test"] {
        let words: Vec<&str> = ["policy", subcommand]
            .into_iter()
            .chain(files.iter().map(String::as_str))
            .collect();
        let out = blackstart(&dir, &words);
        let told = text(&out.stdout);
        assert_eq!(out.status.code(), Some(0), "{told}");
        let as_it_should = |line: &str| line.ends_with(": valid") || line.ends_with("tests passed");
        assert!(told.lines().all(as_it_should), "{told}");
    }
    // All of them together, as a policy may have them.
    let names = files.iter().map(|file| format!("  - {file}\n"));
    let all = format!(
        "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\ndefault: deny\ninclude:\n{}",
        names.collect::<String>()
    );
    fs::write(dir.path().join("all.yaml"), all).unwrap();
    let words = [
        "policy",
        "explain",
        "--policy",
        "all.yaml",
        "checkpoint-api.hashicorp.com:443",
    ];
    let out = blackstart(&dir, &words);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("fix   CHECKPOINT_DISABLE=1"));
}
