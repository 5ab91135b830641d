//! The `blackstart` binary as a test uses it.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use blackstart_core::report::Report;
use serde_json::Value;

use crate::child::{Ended, Running};
use crate::node::Node;
use crate::world::World;

static GUARDS: AtomicU32 = AtomicU32::new(0);

/// A guarded run, to be described and then run.
pub struct Guard<'w> {
    world: &'w World,
    node: Node,
    arguments: Vec<String>,
    policy: Option<String>,
    environment: Vec<(String, String)>,
    report: PathBuf,
}

/// A guarded run under way.
pub struct Guarding {
    running: Running,
    report: PathBuf,
}

/// A guarded run that has ended.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// How `blackstart` itself ended.
    pub ended: Ended,
    /// The report, unless there was none.
    pub report: Option<Report>,
}

impl<'w> Guard<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        let number = GUARDS.fetch_add(1, Ordering::Relaxed);
        Self {
            world,
            node: world.host().clone(),
            arguments: Vec::new(),
            policy: None,
            environment: Vec::new(),
            report: world.dir().join(format!("report-{number}.json")),
        }
    }

    /// The run's policy: what follows `apiVersion` and `kind`, which are put before it.
    pub fn policy(mut self, text: &str) -> Self {
        self.policy = Some(format!(
            "apiVersion: blackstart.dev/v1\nkind: Policy\n{text}"
        ));
        self
    }

    /// The run's policy, the file's every byte.
    pub fn policy_file(mut self, text: &str) -> Self {
        self.policy = Some(text.to_owned());
        self
    }

    /// A flag or argument of `blackstart run`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run the guard on another machine than the world's host.
    pub fn on(mut self, node: &Node) -> Self {
        self.node = node.clone();
        self
    }

    /// Start it.
    pub fn start<S: AsRef<str>>(self, command: &[S]) -> Guarding {
        let mut line = self.line();
        line.extend(command.iter().map(|argument| argument.as_ref().to_owned()));
        let report = self.report.clone();
        Guarding {
            running: self.launch(&line),
            report,
        }
    }

    /// Run it to its end.
    pub fn run<S: AsRef<str>>(self, command: &[S]) -> Guarded {
        self.start(command).wait()
    }

    /// `blackstart` with these arguments instead of `run`, with the same state and environment.
    pub fn blackstart(self, arguments: &[&str]) -> Ended {
        let mut line = vec![binary()];
        line.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.launch(&line).wait()
    }

    /// The command line up to and with `--`, for a test that runs it in its own way (a terminal).
    pub fn line(&self) -> Vec<String> {
        let mut line = vec![binary(), "run".to_owned()];
        line.extend(self.arguments.iter().cloned());
        line.extend(["--report".to_owned(), self.report.display().to_string()]);
        if let Some(policy) = &self.policy {
            let number = GUARDS.fetch_add(1, Ordering::Relaxed);
            let file = self.world.file(&format!("policy-{number}.yaml"), policy);
            line.extend(["--policy".to_owned(), file.display().to_string()]);
        }
        line.push("--".to_owned());
        line
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        state(self.world)
    }

    fn launch(&self, line: &[String]) -> Running {
        let mut command = self.node.command(line);
        command.env("BLACKSTART_STATE", self.state());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Running::start(command, self.world.dir())
    }
}

impl Guarding {
    /// The supervisor: look at it, signal it, read what the run says so far.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Wait for the run's end.
    pub fn wait(self) -> Guarded {
        let ended = self.running.wait();
        let report = fs::read(&self.report).ok().map(|bytes| {
            // First as any JSON, so that a wrong shape is told apart from no JSON at all.
            let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                panic!(
                    "the report is not JSON: {e}: {}",
                    String::from_utf8_lossy(&bytes)
                )
            });
            serde_json::from_value(value)
                .unwrap_or_else(|e| panic!("the report has not the report's shape: {e}"))
        });
        Guarded { ended, report }
    }
}

impl Guarded {
    /// The command must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.ended.code, code, "exit code of {self:?}");
        self
    }

    /// The report, which must be there.
    #[track_caller]
    pub fn report(&self) -> &Report {
        self.report
            .as_ref()
            .unwrap_or_else(|| panic!("there should be a report: {:?}", self.ended))
    }
}

/// Where the state of this world's runs is.
pub fn state(world: &World) -> PathBuf {
    world.dir().join("state")
}

/// The binary under test: `BLACKSTART_BIN`, or what was built last beside this test.
pub fn binary() -> String {
    if let Ok(path) = std::env::var("BLACKSTART_BIN") {
        return path;
    }
    let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["release", "debug"]
        .into_iter()
        .map(|profile| target.join(profile).join("blackstart"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path.display().to_string())
        .expect("no blackstart binary: build one (`make build`) or set BLACKSTART_BIN")
}
