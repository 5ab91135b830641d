//! `blackstart` as the stories use it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use blackstart_core::report::{Flow, Name, Report, Verdict};
use blackstart_lab::Held;
use blackstart_lab::shown::Judged;
use rustix::process::{Pid, Signal};

/// No command of a story takes longer in an emulated machine; one that does is killed, and the story fails.
const DEADLINE: Duration = Duration::from_secs(45);

static COMMANDS: AtomicU32 = AtomicU32::new(0);

/// A command under way.
pub(crate) struct Running {
    child: Child,
    began: Instant,
    what: String,
    files: PathBuf,
    held: Held,
}

/// A command that has ended.
pub(crate) struct Ended {
    pub(crate) what: String,
    /// Exit code, or 128+n for signal n.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    report: Option<Report>,
    held: Held,
}

impl Judged for Ended {
    fn code(&self) -> i32 {
        self.code
    }

    fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    fn held(&self) -> Held {
        self.held
    }
}

/// Run a command to its end, unguarded.
pub(crate) fn bare(line: &[&str]) -> Ended {
    Running::start(line, None).wait()
}

/// Start a command, unguarded.
pub(crate) fn begin(line: &[&str]) -> Running {
    Running::start(line, None)
}

/// Run a command under `blackstart run`, with these flags and, if not empty, this policy.
pub(crate) fn run(flags: &[&str], policy: &str, command: &[&str]) -> Ended {
    start(flags, policy, command).wait()
}

/// Start a command under `blackstart run`.
pub(crate) fn start(flags: &[&str], policy: &str, command: &[&str]) -> Running {
    let line = [&["blackstart", "run"], flags].concat();
    let running = match policy {
        "" => Running::start(&line, Some(command)),
        policy => with_policy(&line, policy, command),
    };
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    Running {
        held: Held::by(&flags, policy),
        ..running
    }
}

/// The same in a cgroup that is there: the guard's own, not the run's.
pub(crate) fn start_within(cgroup: &Path, policy: &str, command: &[&str]) -> Running {
    let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", cgroup.display());
    let line = ["sh", "-ec", &enter, "sh", "blackstart", "run"];
    with_policy(&line, policy, command)
}

fn with_policy(line: &[&str], policy: &str, command: &[&str]) -> Running {
    let file = new_path("policy").with_extension("yaml");
    let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\n{policy}");
    fs::write(&file, text).expect("write a policy");
    let file = format!("--policy={}", file.display());
    Running::start(&[line, &[&file]].concat(), Some(command))
}

/// Attach to a cgroup with this policy, and wait until that is done.
pub(crate) fn attach(cgroup: &Path, policy: &str) -> Running {
    let cgroup = cgroup.display().to_string();
    // In the place of a command's: nothing is run.
    let line = ["blackstart", "attach", "--cgroup", &cgroup];
    let attached = with_policy(&line, policy, &[]);
    let began = Instant::now();
    while !attached.warnings().contains("blackstart: attached to ") {
        assert!(
            began.elapsed() < DEADLINE,
            "not attached: {}",
            attached.warnings()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    attached
}

fn new_path(what: &str) -> PathBuf {
    let number = COMMANDS.fetch_add(1, Ordering::Relaxed);
    Path::new("/tmp").join(format!("{what}-{number}"))
}

impl Running {
    /// Of a guard the report is asked for; behind it comes its command, if it has one.
    fn start(line: &[&str], guarded: Option<&[&str]>) -> Self {
        let files = new_path("command");
        let create = |ending| {
            File::create(files.with_extension(ending)).expect("make a file for the output")
        };
        let mut command = Command::new(line[0]);
        command.args(&line[1..]);
        if guarded.is_some() {
            command.arg("--report").arg(files.with_extension("json"));
        }
        let guarded = guarded.unwrap_or_default();
        if !guarded.is_empty() {
            command.arg("--").args(guarded);
        }
        let child = command
            .stdout(create("out"))
            .stderr(create("err"))
            .spawn()
            .unwrap_or_else(|e| panic!("start {line:?}: {e}"));
        Self {
            child,
            began: Instant::now(),
            what: [line, guarded].concat().join(" "),
            files,
            held: Held::Loosely,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub(crate) fn warnings(&self) -> String {
        fs::read_to_string(self.files.with_extension("err")).unwrap_or_default()
    }

    /// Ask it to end.
    pub(crate) fn end(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)
            .expect("ask a running command to end");
    }

    pub(crate) fn kill(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::KILL)
            .expect("kill a running command");
    }

    pub(crate) fn wait(self) -> Ended {
        self.wait_at_most(DEADLINE)
    }

    pub(crate) fn wait_at_most(mut self, deadline: Duration) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("look after a command") {
                break status;
            }
            if self.began.elapsed() > deadline {
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = self.began.elapsed();
        let read = |ending| {
            let bytes = fs::read(self.files.with_extension(ending)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let ended = Ended {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: read("out"),
            stderr: read("err"),
            took,
            report: serde_json::from_str(&read("json")).ok(),
            what: self.what,
            held: self.held,
        };
        assert!(took < deadline, "killed, for it did not end: {ended}");
        ended
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {} after {:.1?}\n--- stdout\n{}\n--- stderr\n{}",
            self.what, self.code, self.took, self.stdout, self.stderr
        )
    }
}

impl Ended {
    /// It ended so.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }

    /// It failed of itself: neither the guard nor a signal ended it.
    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        assert!((1..120).contains(&self.code), "expected it to fail: {self}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "expected {text:?}: {self}");
        self
    }

    /// The report; a run that got as far as its end has one.
    #[track_caller]
    pub(crate) fn report(&self) -> &Report {
        self.report
            .as_ref()
            .unwrap_or_else(|| panic!("no report: {self}"))
    }

    /// The lookups of a name.
    #[track_caller]
    pub(crate) fn names<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Name> {
        self.report().names.iter().filter(move |n| n.name == name)
    }

    /// Every lookup of this name was judged so, and there was one.
    #[track_caller]
    pub(crate) fn judged(self, name: &str, verdict: Verdict) -> Self {
        let all: Vec<_> = self.names(name).map(|name| name.verdict).collect();
        assert!(
            !all.is_empty() && all.iter().all(|one| *one == verdict),
            "expected {verdict:?} for {name}, found {all:?}: {self}"
        );
        self
    }

    /// What was reached for at an address, on a port.
    #[track_caller]
    pub(crate) fn flows(&self, address: impl Into<std::net::IpAddr>, port: u16) -> Vec<&Flow> {
        let address = address.into();
        self.report()
            .flows
            .iter()
            .filter(|flow| flow.address == address && flow.port == port)
            .collect()
    }

    /// The argument list of the process that did it.
    #[track_caller]
    pub(crate) fn argv(&self, subject: Option<u64>) -> Vec<&str> {
        let found = self
            .report()
            .subjects
            .iter()
            .find(|one| Some(one.id) == subject)
            .unwrap_or_else(|| panic!("no process for {subject:?} in the report of {}", self.what));
        found.argv.iter().map(String::as_str).collect()
    }
}

/// What a run makes and has to remove: pins, cgroups, locks.
pub(crate) fn left_behind() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    below(Path::new("/sys/fs/bpf"), &|_| true, &mut found);
    below(Path::new("/sys/fs/cgroup"), &Path::is_dir, &mut found);
    let is_lock = |path: &Path| path.file_name().is_some_and(|name| name == "lock");
    below(Path::new("/var/lib/blackstart/runs"), &is_lock, &mut found);
    found
}

fn below(dir: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            below(&path, wanted, found);
        }
        if wanted(&path) {
            found.insert(path);
        }
    }
}
