//! Where and when it was measured: a figure without that is worth little.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::workspace;

/// RFC 3339, UTC.
pub fn now() -> String {
    said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).expect("run date (package coreutils)")
}

/// The commit that was measured, and whether anything was changed since.
pub fn revision() -> Value {
    let root = workspace::root().display().to_string();
    let git = |arguments: &[&str]| said("git", &[&["-C", &root], arguments].concat());
    json!({
        "commit": git(&["rev-parse", "HEAD"]),
        "changed": git(&["status", "--porcelain", "--untracked-files=no"]).map(|changes| !changes.is_empty()),
    })
}

/// The machine, and how busy it is.
pub fn description() -> Value {
    let cpu = read("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
            .map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "cpu": field(&cpu, "model name"),
        "hypervisor": cpu.contains(" hypervisor"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "architecture": std::env::consts::ARCH,
        "distribution": read("/etc/os-release").lines().find_map(|line| {
            line.strip_prefix("PRETTY_NAME=").map(|name| name.trim_matches('"').to_owned())
        }),
        "load_average": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>(),
        "resolver": said("unbound", &["-V"]).and_then(|text| text.lines().next().map(str::to_owned)),
    })
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
