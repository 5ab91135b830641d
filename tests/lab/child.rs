//! A command that runs on a machine, and how it ended.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// No command of a test takes longer; one that does is killed, and the test fails.
const DEADLINE: Duration = Duration::from_secs(120);

static OUTPUTS: AtomicU32 = AtomicU32::new(0);

/// A command under way. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    began: Instant,
    // Files, not pipes: a daemon that outlives its run keeps a pipe open, and the reader would wait.
    stdout: PathBuf,
    stderr: PathBuf,
    what: String,
}

/// A command that has ended.
#[derive(Clone)]
pub struct Ended {
    /// What was run.
    pub what: String,
    /// Exit code, or 128+n for signal n.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Running {
    pub(crate) fn start(mut command: Command, dir: &Path) -> Self {
        let what = command
            .get_args()
            .skip_while(|argument| *argument != "--")
            .skip(1)
            .map(|argument| argument.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let dir = dir.join("out");
        fs::create_dir_all(&dir).expect("make the directory for output");
        let number = OUTPUTS.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (
            dir.join(format!("{number}.out")),
            dir.join(format!("{number}.err")),
        );
        command.stdout(Stdio::from(
            File::create(&stdout).expect("make a file for stdout"),
        ));
        command.stderr(Stdio::from(
            File::create(&stderr).expect("make a file for stderr"),
        ));
        let child = command.spawn().expect("start nsenter (package util-linux)");
        Self {
            child,
            began: Instant::now(),
            stdout,
            stderr,
            what,
        }
    }

    /// Its process id: that of the command itself, since everything before it only exec's.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Send it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal)
            .expect("send a signal to a running command");
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Wait until stdout contains `text`.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, Self::stdout);
    }

    /// Wait until stderr contains `text`.
    pub fn wait_for_warning(&mut self, text: &str) {
        self.wait_until(text, Self::stderr);
    }

    fn wait_until(&mut self, text: &str, said: impl Fn(&Self) -> String) {
        while !said(self).contains(text) {
            if let Some(status) = self.child.try_wait().expect("look after a command") {
                assert!(
                    said(self).contains(text),
                    "`{}` ended ({status}) before it said {text:?}; stderr: {}",
                    self.what,
                    self.stderr()
                );
                return;
            }
            assert!(
                self.began.elapsed() < DEADLINE,
                "`{}` never said {text:?}; stderr: {}",
                self.what,
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<Ended> {
        self.child
            .try_wait()
            .expect("look after a command")
            .map(|status| self.ended(status))
    }

    /// Wait for its end.
    pub fn wait(mut self) -> Ended {
        loop {
            if let Some(status) = self.child.try_wait().expect("look after a command") {
                return self.ended(status);
            }
            if self.began.elapsed() > DEADLINE {
                let _ = self.child.kill();
                panic!(
                    "`{}` did not end within {DEADLINE:?}\nstdout: {}\nstderr: {}",
                    self.what,
                    self.stdout(),
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        Ended {
            what: self.what.clone(),
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: self.began.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ended {
    /// It must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {self:?}");
        self
    }

    /// It must have ended with 0.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// It must not have ended with 0, and no signal may have ended it.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(
            (1..120).contains(&self.code),
            "should have failed by itself: {self:?}"
        );
        self
    }

    /// It must have ended within this time.
    #[track_caller]
    pub fn within(self, time: Duration) -> Self {
        assert!(
            self.took <= time,
            "took {:?}, more than {time:?}: {self:?}",
            self.took
        );
        self
    }

    /// Its stdout must contain this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text),
            "stdout should contain {text:?}: {self:?}"
        );
        self
    }

    /// Its stderr must contain this.
    #[track_caller]
    pub fn warns(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "stderr should contain {text:?}: {self:?}"
        );
        self
    }
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` exited {} after {:?}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.what, self.code, self.took, self.stdout, self.stderr
        )
    }
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
