//! The compiled client (`clients/bench.c`), bare or below a guard, taking orders.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use blackstart_core::report::Report;
use rustix::process::{Pid, Signal};

/// Build the client.
pub(super) fn build(dir: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/bench.c");
    let program = dir.join("bench-client");
    let status = Command::new("gcc")
        .args(["-O2", "-static", "-o"])
        .args([&program, &source])
        .status()
        .expect("run gcc (package gcc)");
    assert!(status.success(), "the client of the benches does not build");
    program.display().to_string()
}

/// A client that waits for orders.
pub(super) struct Client {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    report: Option<PathBuf>,
}

impl Client {
    /// Start it. With a report it is guarded.
    pub(super) fn start(mut command: Command, report: Option<PathBuf>) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start nsenter (package util-linux)");
        let mut client = Self {
            orders: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("piped")),
            child,
            report,
        };
        // Once it answers, the guard in front of it has done its work.
        assert_eq!(client.exchange("?", 1), ["what?"]);
        client
    }

    /// Give an order, and read the numbers that come back.
    pub(super) fn ask(&mut self, order: &str) -> Vec<u64> {
        numbers(order, &self.exchange(order, 1)[0])
    }

    /// Have two processes do it at once, and add their numbers up.
    pub(super) fn ask_two(&mut self, order: &str) -> Vec<u64> {
        let lines = self.exchange(&format!("twice {order}"), 2);
        let (one, other) = (numbers(order, &lines[0]), numbers(order, &lines[1]));
        one.iter().zip(other).map(|(a, b)| a + b).collect()
    }

    fn exchange(&mut self, order: &str, lines: usize) -> Vec<String> {
        let orders = self
            .orders
            .as_mut()
            .expect("open until the client is ended");
        writeln!(orders, "{order}").expect("give an order to the client");
        (0..lines)
            .map(|_| {
                let mut line = String::new();
                self.answers
                    .read_line(&mut line)
                    .expect("hear from the client");
                assert!(!line.is_empty(), "the client ended over `{order}`");
                line.trim().to_owned()
            })
            .collect()
    }

    /// The process that was started: the supervisor, if it is guarded.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The same, to be signalled while the client is at work.
    pub(super) fn supervisor(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// No more orders; its supervisor was killed, and there is no report.
    pub(super) fn abandon(mut self) {
        drop(self.orders.take());
        let status = self.child.wait().expect("wait for the supervisor");
        assert!(!status.success(), "the supervisor was not killed: {status}");
    }

    /// Send the process that was started a signal.
    pub(super) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal)
            .expect("send a signal to the client");
    }

    /// No more orders; wait for the end, and read the report if there is one.
    pub(super) fn end(mut self) -> Option<Report> {
        drop(self.orders.take());
        let status = self.child.wait().expect("wait for the client");
        assert!(status.success(), "the client ended with {status}");
        self.report.take().map(|path| {
            let text = fs::read(&path)
                .unwrap_or_else(|e| panic!("read the report {}: {e}", path.display()));
            serde_json::from_slice(&text).expect("the report has the report's shape")
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of its orders is its end; only what hangs is killed, by the world's own clean-up.
        drop(self.orders.take());
    }
}

fn numbers(order: &str, line: &str) -> Vec<u64> {
    line.split(' ')
        .map(|word| {
            word.parse()
                .unwrap_or_else(|_| panic!("the client answered `{order}` with `{line}`"))
        })
        .collect()
}
