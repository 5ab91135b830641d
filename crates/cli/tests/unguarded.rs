//! `run` without any privilege: it sees nothing and says so, and the command must not notice. What a
//! privileged run sees and refuses is tested in the lab.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Nobody's user and group id, for tests that root runs.
const NOBODY: u32 = 65534;

/// A directory with the program in it, both of which an unprivileged user can use.
struct Place {
    dir: TempDir,
    program: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let program = dir.path().join("blackstart");
        // By another process: while this one copied, a test beside it could fork, hold the copy open for
        // writing, and so keep it from being executed (ETXTBSY).
        let copied = Command::new("install")
            .args(["-m", "755", env!("CARGO_BIN_EXE_blackstart")])
            .arg(&program)
            .status()
            .unwrap();
        assert!(copied.success());
        Self { dir, program }
    }

    fn call(&self, words: &[&str]) -> Output {
        self.call_with(words, "")
    }

    fn call_with(&self, words: &[&str], input: &str) -> Output {
        self.given(Command::new(&self.program).args(words), input)
    }

    /// What a shell makes of this.
    fn call_script(&self, script: &str) -> Output {
        self.given(Command::new("sh").args(["-c", script]), "")
    }

    /// By way of another command, which ends in the program.
    fn call_through(&self, through: &[&str], words: &[&str]) -> Output {
        let mut command = Command::new(through[0]);
        command.args(&through[1..]).arg(&self.program).args(words);
        self.given(&mut command, "")
    }

    fn given(&self, command: &mut Command, input: &str) -> Output {
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("BLACKSTART_STATE", self.dir.path().join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if rustix::process::geteuid().is_root() {
            command.gid(NOBODY).uid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_exit_code_is_the_commands() {
    let place = Place::new();
    fs::write(place.dir.path().join("plain"), "no program").unwrap();
    for (words, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "exit 125"], 125),
        (&["sh", "-c", "kill -9 $$"], 128 + 9),
        (&["./plain"], 126),
        (&["no-such-command"], 127),
    ] {
        let out = place.call(&[&["run", "-q", "--"], words].concat());
        assert_eq!(
            out.status.code(),
            Some(code),
            "{words:?}: {}",
            text(&out.stderr)
        );
    }
}

#[test]
fn the_streams_are_the_commands() {
    let out = Place::new().call_with(&["run", "--", "sh", "-c", "cat; echo e >&2"], "typed\n");
    assert_eq!(text(&out.stdout), "typed\n");
    let told = text(&out.stderr);
    assert!(
        told.starts_with("e\nblackstart: unguarded: sh ran"),
        "{told}"
    );
    assert!(told.contains("gap       bpf: "), "{told}");
}

#[test]
fn quiet_leaves_the_summary() {
    let place = Place::new();
    let out = place.call(&["run", "-q", "--", "true"]);
    assert_eq!(text(&out.stdout), "");
    let told = text(&out.stderr);
    assert!(
        told.starts_with("blackstart: unguarded: true ran"),
        "{told}"
    );

    // Who wants the report alone has it alone.
    let out = place.call(&["run", "-q", "--format", "json", "--", "true"]);
    assert_eq!(text(&out.stderr), "");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["run"]["guarded"], "no");
}

#[test]
fn json_follows_what_the_command_wrote() {
    let out = Place::new().call(&["run", "--format", "json", "--", "echo", "mine"]);
    let document = text(&out.stdout).strip_prefix("mine\n").unwrap();
    let report: Value = serde_json::from_str(document).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["run"]["guarded"], "no");
    assert_eq!(
        report["run"]["command"],
        serde_json::json!(["echo", "mine"])
    );
    assert!(
        !text(&out.stderr).contains("blackstart:"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn every_report_is_written() {
    let place = Place::new();
    let out = place.call(&[
        "run", "--report", "a.json", "--report", "b.json", "--", "sh", "-c", "exit 4",
    ]);
    assert_eq!(out.status.code(), Some(4));
    assert_eq!(place.read("a.json"), place.read("b.json"));
    let report: Value = serde_json::from_str(&place.read("a.json")).unwrap();
    assert_eq!(report["run"]["exit_code"], 4);
    let told = text(&out.stderr);
    assert!(
        told.contains("/a.json\n") && told.contains("/b.json\n"),
        "{told}"
    );
}

#[test]
fn a_report_that_can_no_longer_be_written_is_shown_and_changes_nothing() {
    let place = Place::new();
    fs::create_dir(place.dir.path().join("out")).unwrap();
    fs::set_permissions(place.dir.path().join("out"), Permissions::from_mode(0o777)).unwrap();
    let out = place.call(&[
        "run",
        "-q",
        "--report",
        "out/r.json",
        "--",
        "sh",
        "-c",
        "rmdir out; exit 5",
    ]);
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    let (warning, document) = text(&out.stderr).split_once('\n').unwrap();
    assert!(warning.contains("cannot write the report to"), "{warning}");
    let mut documents = serde_json::Deserializer::from_str(document).into_iter::<Value>();
    let report = documents.next().unwrap().unwrap();
    assert_eq!(report["run"]["exit_code"], 5);
    let summary = document[documents.byte_offset()..].trim_start();
    assert!(summary.starts_with("blackstart: unguarded: "), "{summary}");
}

#[test]
fn enforce_without_privilege_runs_nothing() {
    let place = Place::new();
    let out = place.call(&["run", "--mode", "enforce", "--", "touch", "ran"]);
    assert_eq!(out.status.code(), Some(125));
    let told = text(&out.stderr);
    assert!(
        told.contains("cannot enforce") && told.lines().count() == 1,
        "{told}"
    );
    assert!(!place.has("ran"));
}

#[test]
fn who_lacks_root_hears_of_root_and_not_of_what_only_root_may_write() {
    let place = Place::new();
    fs::write(place.dir.path().join("state"), "no directory can be here").unwrap();
    let out = place.call(&["run", "--mode", "enforce", "--", "touch", "ran"]);
    assert_eq!(out.status.code(), Some(125));
    let told = text(&out.stderr);
    assert!(
        told.contains("run as root") && !told.contains("BLACKSTART_STATE"),
        "{told}"
    );
    assert!(!place.has("ran"));
}

#[test]
fn the_command_ignores_what_it_would_ignore_without_us() {
    let place = Place::new();
    for (trap, ignored) in [("trap '' PIPE; ", true), ("", false)] {
        let run = |before: &str| {
            let script = format!("{trap}exec {before} grep SigIgn /proc/self/status");
            let out = place.call_script(&script);
            let mask = text(&out.stdout).split_ascii_whitespace().nth(1).unwrap();
            u64::from_str_radix(mask, 16).unwrap()
        };
        let (without, with) = (run(""), run("./blackstart run -q --"));
        assert_eq!(without, with, "{without:x} {with:x}");
        // SIGPIPE is 13.
        assert_eq!(with & 1 << 12 != 0, ignored, "{with:x}");
    }
}

/// A broken glass runs the command whatever of ours fails: without privilege under a policy that enforces, with one that
/// cannot be read or is too much for the tables, and with a log that cannot be kept.
#[test]
fn a_broken_glass_runs_the_command_whatever_fails() {
    let place = Place::new();
    let head = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n";
    let write = |name: &str, rest: &str| {
        let file = place.dir.path().join(name);
        fs::write(&file, format!("{head}{rest}")).unwrap();
        format!("--policy={}", file.display())
    };
    let enforcing = write("enforcing.yaml", "default: deny\n");
    let wrong = write("wrong.yaml", "rules: [\n");
    let many = (0..70).map(|n| format!("  - {{deny: a.example, process: p{n}}}\n"));
    let large = write(
        "large.yaml",
        &format!("rules:\n{}", many.collect::<String>()),
    );
    let asking = write("asking.yaml", "break_glass: it is urgent\n");
    let run = |policy: &str, glass: &[&str], variables: &[(&str, &str)]| {
        let shell = format!(
            "{} exec \"$@\"",
            variables
                .iter()
                .map(|(name, value)| format!("export {name}='{value}';"))
                .collect::<String>()
        );
        let mut words = vec!["run", policy];
        words.extend(glass);
        words.extend(["--", "sh", "-c", "echo ran; exit 7"]);
        place.call_through(&["sh", "-c", &shell, "sh"], &words)
    };
    let broken = ["--break-glass=the site is down"];
    let logs = [
        ("BLACKSTART_LOG", "=[=nonsense="),
        ("BLACKSTART_LOG_FILE", "/nowhere/at/all.log"),
    ];
    for (policy, variables) in [
        (&enforcing, &[][..]),
        (&wrong, &[]),
        (&large, &[]),
        (&asking, &[]),
        (&enforcing, &logs[..1]),
        (&enforcing, &[("BLACKSTART_LOG", "debug"), logs[1]][..]),
    ] {
        let refused = run(policy, &[], variables);
        assert_eq!(refused.status.code(), Some(125), "{policy}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
        let ran = run(policy, &broken, variables);
        assert_eq!(ran.status.code(), Some(7), "{policy}: {ran:?}");
        assert_eq!(text(&ran.stdout), "ran\n");
        for (name, _) in variables.iter().filter(|(_, value)| *value != "debug") {
            assert!(text(&ran.stderr).contains(name), "{ran:?}");
        }
    }
    assert!(text(&run(&asking, &[], &[]).stderr).contains("break_glass"));
    assert!(text(&run(&large, &broken, &[]).stderr).contains("more than 64"));
}
