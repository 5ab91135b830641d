//! The `blackstart` binary as a test uses it.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use blackstart_core::report::{Finding, Flow, Name, Report, STANDING_GAPS, Subject, Verdict};
use serde_json::Value;

use crate::child::{Ended, Running};
use crate::node::Node;
use crate::shown::{Held, Judged, policy_of};
use crate::world::World;

static GUARDS: AtomicU32 = AtomicU32::new(0);

/// A guarded run, to be described and then run.
pub struct Guard<'w> {
    world: &'w World,
    node: Node,
    through: Vec<String>,
    arguments: Vec<String>,
    policy: Option<String>,
    environment: Vec<(String, String)>,
    report: PathBuf,
}

/// A guarded run under way.
pub struct Guarding {
    running: Running,
    report: PathBuf,
    held: Held,
}

/// A guarded run that has ended.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// How `blackstart` itself ended.
    pub ended: Ended,
    /// The report, unless there was none.
    pub report: Option<Report>,
    held: Held,
}

impl Judged for Guarded {
    fn code(&self) -> i32 {
        self.ended.code
    }

    fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    fn held(&self) -> Held {
        self.held
    }
}

impl<'w> Guard<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        let number = GUARDS.fetch_add(1, Ordering::Relaxed);
        Self {
            world,
            node: world.host().clone(),
            through: Vec::new(),
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

    /// The run's policy, a file that is there already.
    pub fn policy_path(self, file: &std::path::Path) -> Self {
        self.arg(&format!("--policy={}", file.display()))
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

    /// Put these words before it: a command that runs the rest of its line elsewhere, in a container for example.
    pub fn through(mut self, line: Vec<String>) -> Self {
        self.through = line;
        self
    }

    /// Start it.
    pub fn start<S: AsRef<str>>(self, command: &[S]) -> Guarding {
        let mut line = self.through.clone();
        line.extend(self.line());
        line.extend(command.iter().map(|argument| argument.as_ref().to_owned()));
        let (report, held) = (self.report.clone(), self.held());
        Guarding {
            running: self.launch(&line),
            report,
            held,
        }
    }

    /// Attach to what is there already, by these words, instead of running a command; and wait until that is done.
    pub fn attach<S: AsRef<str>>(self, to: &[S]) -> Guarding {
        let mut line = self.through.clone();
        line.extend([binary(), "attach".to_owned()]);
        line.extend(to.iter().map(|word| word.as_ref().to_owned()));
        line.extend(self.options());
        let report = self.report.clone();
        let mut guarding = Guarding {
            running: self.launch(&line),
            report,
            held: Held::Loosely,
        };
        guarding
            .running
            .wait_for_warning("blackstart: attached to ");
        guarding
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
        line.extend(self.options());
        line.push("--".to_owned());
        line
    }

    /// What stands before that: flags, the report, the policy.
    fn options(&self) -> Vec<String> {
        let mut line = self.arguments.clone();
        line.extend(["--report".to_owned(), self.report.display().to_string()]);
        if let Some(policy) = &self.policy {
            let number = GUARDS.fetch_add(1, Ordering::Relaxed);
            let file = self.world.file(&format!("policy-{number}.yaml"), policy);
            line.extend(["--policy".to_owned(), file.display().to_string()]);
        }
        line
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        state(self.world)
    }

    fn held(&self) -> Held {
        let files = self.arguments.iter();
        let files = files.filter_map(|one| one.strip_prefix("--policy="));
        let mut policy: String = files.map(|file| policy_of(file.as_ref())).collect();
        policy.extend(self.policy.as_deref());
        Held::by(&self.arguments, &policy)
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
            let report = serde_json::from_value(value)
                .unwrap_or_else(|e| panic!("the report has not the report's shape: {e}"));
            books_balance(&report);
            report
        });
        Guarded {
            ended,
            report,
            held: self.held,
        }
    }
}

impl Guarded {
    /// The command must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.ended.code, code, "exit code of {self:?}");
        self
    }

    /// Its stdout must contain this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.ended.stdout.contains(text),
            "stdout should contain {text:?}: {:?}",
            self.ended
        );
        self
    }

    /// Its stderr must contain this.
    #[track_caller]
    pub fn warns(self, text: &str) -> Self {
        assert!(
            self.ended.stderr.contains(text),
            "stderr should contain {text:?}: {:?}",
            self.ended
        );
        self
    }

    /// It must have ended within this time.
    #[track_caller]
    pub fn within(self, time: std::time::Duration) -> Self {
        assert!(
            self.ended.took <= time,
            "took more than {time:?}: {:?}",
            self.ended
        );
        self
    }

    /// The lookups of this name.
    #[track_caller]
    pub fn lookups(&self, name: &str) -> Vec<&Name> {
        self.report()
            .names
            .iter()
            .filter(|found| found.name == name)
            .collect()
    }

    /// The flows to this address.
    #[track_caller]
    pub fn flows(&self, address: impl Into<IpAddr>) -> Vec<&Flow> {
        let address = address.into();
        self.report()
            .flows
            .iter()
            .filter(|flow| flow.address == address)
            .collect()
    }

    /// The one flow to this address and port: of TCP, where there is one. (To sort addresses, libc
    /// connects a UDP socket to each of them, and sends nothing.)
    #[track_caller]
    pub fn flow(&self, address: impl Into<IpAddr>, port: u16) -> &Flow {
        let mut found: Vec<_> = self
            .flows(address)
            .into_iter()
            .filter(|flow| flow.port == port)
            .collect();
        if found.iter().any(|flow| flow.protocol == "tcp") {
            found.retain(|flow| flow.protocol == "tcp");
        }
        match found[..] {
            [flow] => flow,
            _ => panic!(
                "one flow to port {port} expected, found {found:#?}; the report: {:#?}",
                self.report()
            ),
        }
    }

    /// The verdicts on all lookups of this name, each once. There must have been at least one lookup.
    #[track_caller]
    pub fn verdict_on(&self, name: &str) -> Verdict {
        let found: Vec<_> = self.lookups(name).iter().map(|name| name.verdict).collect();
        assert!(
            !found.is_empty(),
            "no lookup of {name} in {:#?}",
            self.report().names
        );
        assert!(
            found.windows(2).all(|pair| pair[0] == pair[1]),
            "verdicts on {name} differ: {:#?}",
            self.lookups(name)
        );
        found[0]
    }

    /// A subject by its number.
    #[track_caller]
    pub fn subject(&self, id: Option<u64>) -> &Subject {
        let id = id.expect("the subject should be known");
        let found = self
            .report()
            .subjects
            .iter()
            .find(|subject| subject.id == id);
        found.unwrap_or_else(|| panic!("subject {id} is not in the report"))
    }

    /// The argv of a subject and its ancestors, the subject's own first, without its directories.
    #[track_caller]
    pub fn chain(&self, id: Option<u64>) -> Vec<String> {
        let mut chain = Vec::new();
        let mut next = id;
        while next.is_some() {
            let subject = self.subject(next);
            chain.push(subject.argv.join(" "));
            next = subject.parent;
        }
        chain
    }

    /// The findings of this kind.
    #[track_caller]
    pub fn findings(&self, kind: &str) -> Vec<&Finding> {
        self.report()
            .findings
            .iter()
            .filter(|finding| finding.kind == kind)
            .collect()
    }

    /// The kinds of what could not be seen, besides what this version never sees.
    #[track_caller]
    pub fn gaps(&self) -> BTreeSet<&str> {
        self.report()
            .coverage
            .gaps
            .iter()
            .map(|gap| gap.kind.as_str())
            .filter(|kind| STANDING_GAPS.iter().all(|standing| standing.kind != *kind))
            .collect()
    }

    /// The report, which must be there.
    #[track_caller]
    pub fn report(&self) -> &Report {
        self.report
            .as_ref()
            .unwrap_or_else(|| panic!("there should be a report: {:?}", self.ended))
    }
}

/// What holds of every report, whatever the test is about.
#[track_caller]
fn books_balance(report: &Report) {
    let coverage = &report.coverage;
    assert_eq!(
        coverage.attempts,
        coverage.recorded + coverage.lost,
        "attempts = recorded + lost: {coverage:?}"
    );
    let rows: u64 = report.flows.iter().map(|flow| flow.attempts).sum();
    assert!(
        rows <= coverage.recorded,
        "the flows' {rows} attempts are more than were recorded: {coverage:?}"
    );
    let known: BTreeSet<u64> = report.subjects.iter().map(|subject| subject.id).collect();
    assert_eq!(
        known.len(),
        report.subjects.len(),
        "a subject's number stands for one subject"
    );
    let mentioned = report.flows.iter().filter_map(|flow| flow.subject);
    let mentioned = mentioned.chain(report.names.iter().filter_map(|name| name.subject));
    let mentioned = mentioned.chain(report.subjects.iter().filter_map(|subject| subject.parent));
    for subject in mentioned {
        assert!(
            known.contains(&subject),
            "subject {subject} is mentioned but not there"
        );
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
