//! What was typed, made into what it means: files read, places checked, defaults filled in. Everything
//! that is wrong is found at once, and before anything runs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use blackstart_core::policy::{self, Diagnostic, Policy};
use blackstart_core::report::{Mode, PolicySource};
use sha2::{Digest as _, Sha256};

use crate::args::{self, Format};
use crate::report_file::ReportFile;

/// Where runs keep their state, unless `BLACKSTART_STATE` says otherwise.
const STATE: &str = "/var/lib/blackstart";

/// A run as it is to be.
#[derive(Debug)]
pub(crate) struct Order {
    /// The policy and its text, if one was given.
    pub(crate) policy: Option<PolicyFile>,
    /// Observe or enforce, all considered.
    pub(crate) mode: Mode,
    /// What the run deploys, all considered.
    pub(crate) service: Option<String>,
    /// As typed; the policy's default decides where it was not.
    pub(crate) leftover: Option<args::Leftover>,
    /// Gaps that do not stop an enforcing run.
    pub(crate) accept_gaps: Vec<String>,
    /// Beside an orphan of the same service.
    pub(crate) concurrent: bool,
    /// Where the report goes.
    pub(crate) reports: Vec<ReportFile>,
    /// Summary, or report on standard output.
    pub(crate) format: Format,
    /// Neither lines nor summary.
    pub(crate) quiet: bool,
    /// What to run.
    pub(crate) command: Vec<OsString>,
    /// Where state is kept.
    pub(crate) state: PathBuf,
}

/// A policy with the text that it was read from.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    /// Where it came from.
    pub(crate) source: PolicySource,
    /// Its text.
    pub(crate) text: String,
    /// Its meaning.
    pub(crate) policy: Policy,
    /// What its author ought to look at.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Something that is wrong with what was typed.
#[derive(Debug)]
pub(crate) enum Problem {
    /// In one line: what, why, what to do.
    Message(String),
    /// In a policy.
    Policy {
        /// Its text, to show the places.
        text: String,
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
    },
}

/// Reads and checks everything that `typed` names.
pub(crate) fn run(typed: args::Run, state: Option<&OsStr>) -> Result<Order, Vec<Problem>> {
    let mut problems = Vec::new();
    let policy = typed
        .policy
        .as_deref()
        .and_then(|path| kept(policy_file(path), &mut problems));
    let state = kept(
        state_directory(state).map_err(Problem::Message),
        &mut problems,
    );
    let reports = typed
        .report
        .iter()
        .filter_map(|path| {
            kept(
                ReportFile::prepare(path).map_err(Problem::Message),
                &mut problems,
            )
        })
        .collect();
    let Some(state) = state.filter(|_| problems.is_empty()) else {
        return Err(problems);
    };

    let of_policy = policy.as_ref().map(|file| &file.policy);
    let mode = match typed.mode {
        Some(args::Mode::Observe) => Mode::Observe,
        Some(args::Mode::Enforce) => Mode::Enforce,
        None => of_policy.map_or(Mode::Observe, |policy| policy.mode),
    };
    let service = typed
        .service
        .or_else(|| of_policy.and_then(|policy| policy.service.clone()));
    Ok(Order {
        policy,
        mode,
        service,
        leftover: typed.leftover,
        accept_gaps: typed.accept_gap,
        concurrent: typed.concurrent,
        reports,
        format: typed.format,
        quiet: typed.quiet,
        command: typed.command,
        state,
    })
}

fn kept<T>(result: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// Reads a policy. No more than what a policy may hold is taken in, whatever the file is.
pub(crate) fn policy_file(path: &Path) -> Result<PolicyFile, Problem> {
    let shown = path.display();
    let unreadable = |why: &dyn std::fmt::Display| {
        Problem::Message(format!("cannot read the policy {shown}: {why}"))
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            file.take(policy::MAX_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        unreadable(&format!(
            "it is not UTF-8 from byte {} on",
            error.utf8_error().valid_up_to()
        ))
    })?;
    match policy::parse(&text, &path.to_string_lossy()) {
        Ok(parsed) => Ok(PolicyFile {
            source: PolicySource {
                digest: format!("{:x}", Sha256::digest(&text)),
                files: vec![path.to_string_lossy().into_owned()],
            },
            policy: parsed.policy,
            warnings: parsed.warnings,
            text,
        }),
        Err(diagnostics) => Err(Problem::Policy { text, diagnostics }),
    }
}

/// From the value of `BLACKSTART_STATE`. A relative path would mean another place in each directory,
/// and the runs of one would not know those of the other.
pub(crate) fn state_directory(variable: Option<&OsStr>) -> Result<PathBuf, String> {
    match variable.filter(|value| !value.is_empty()) {
        None => Ok(PathBuf::from(STATE)),
        Some(value) => {
            let path = Path::new(value);
            if path.is_absolute() {
                Ok(path.to_owned())
            } else {
                Err(format!(
                    "BLACKSTART_STATE is {}, which is a relative path; give an absolute one",
                    path.display()
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const POLICY: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: mysql\nmode: enforce\nrules:\n  - deny: .github.com\n";

    fn typed(words: &[&str]) -> args::Run {
        let words = ["blackstart", "run"].iter().chain(words);
        match args::Typed::parse_from(words).command {
            args::Command::Run(run) => run,
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn nothing_typed_is_observe_without_a_policy() {
        let order = run(typed(&["--", "true"]), None).unwrap();
        assert_eq!((order.mode, order.service), (Mode::Observe, None));
        assert_eq!(order.state, Path::new("/var/lib/blackstart"));
        assert!(order.policy.is_none());
    }

    #[test]
    fn what_was_typed_goes_before_the_policy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.yaml");
        std::fs::write(&path, POLICY).unwrap();
        let path = path.to_str().unwrap();

        let order = run(typed(&["--policy", path, "true"]), None).unwrap();
        // What sha256sum says of the same bytes.
        let digest = "21cd9070df0dbafc5fa13fe52cb4f15cb59f12855c047a46813a818e63b112d4";
        assert_eq!(order.policy.unwrap().source.digest, digest);
        assert_eq!(
            (order.mode, order.service.as_deref()),
            (Mode::Enforce, Some("mysql"))
        );
        let order = run(
            typed(&[
                "--policy",
                path,
                "--mode",
                "observe",
                "--service",
                "s",
                "true",
            ]),
            None,
        )
        .unwrap();
        assert_eq!(
            (order.mode, order.service.as_deref()),
            (Mode::Observe, Some("s"))
        );
    }

    #[test]
    fn everything_wrong_is_found_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.yaml");
        std::fs::write(&path, "kind: Polcy\n").unwrap();
        let words = [
            "--policy",
            path.to_str().unwrap(),
            "--report",
            "x.pdf",
            "--report",
            "/nowhere/x.json",
            "true",
        ];
        let problems = run(typed(&words), Some(OsStr::new("state"))).unwrap_err();
        assert_eq!(problems.len(), 4);
        assert!(matches!(problems[0], Problem::Policy { .. }));
        let Problem::Message(state) = &problems[1] else {
            panic!()
        };
        assert!(state.contains("relative path"), "{state}");
    }

    #[test]
    fn an_unreadable_policy_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let Err(Problem::Message(absent)) = policy_file(&dir.path().join("absent.yaml")) else {
            panic!()
        };
        assert!(absent.contains("No such file"), "{absent}");
        let Err(Problem::Message(directory)) = policy_file(dir.path()) else {
            panic!()
        };
        assert!(directory.contains("directory"), "{directory}");
        let path = dir.path().join("latin1.yaml");
        std::fs::write(&path, b"kind: \xe4").unwrap();
        let Err(Problem::Message(latin1)) = policy_file(&path) else {
            panic!()
        };
        assert!(latin1.contains("not UTF-8 from byte 6 on"), "{latin1}");
    }
}
