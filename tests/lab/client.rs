//! Clients that no distribution ships: small programs below `tests/clients`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::world::World;

/// The machine may be busy, or emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the source of one is.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// The command that runs one in Python.
fn python(name: &str, arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let script = source(name).display().to_string();
    let mut line = vec!["/usr/bin/python3".to_owned(), script];
    line.extend(arguments);
    line
}

/// The command that reaches for an address in a way that no ordinary tool does (see `clients/reach.py`).
pub fn reach(way: &str, address: impl ToString, port: u16) -> Vec<String> {
    python(
        "reach.py",
        [way.to_owned(), address.to_string(), port.to_string()],
    )
}

/// The command that does so in a way that hardly any tool takes, past an address that is allowed (see `clients/odd.py`).
pub fn odd(way: &str, address: impl ToString, port: u16, allowed: impl ToString) -> Vec<String> {
    python(
        "odd.py",
        [
            way.to_owned(),
            address.to_string(),
            port.to_string(),
            allowed.to_string(),
        ],
    )
}

/// The command that tries a way past a guard that only who has read its source would look for (see `clients/knowing.py`).
pub fn knowing(way: &str, address: impl ToString, more: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/knowing.py");
    let mut line = vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        way.to_owned(),
        address.to_string(),
    ];
    line.extend(more.iter().map(|&word| word.to_owned()));
    line
}

/// The command that prints which BPF programs and maps the host has (see `clients/loaded.py`).
pub fn loaded(prefix: &str) -> Vec<String> {
    python("loaded.py", [prefix.to_owned()])
}

/// The command that says whom a connection is for (see `clients/claim.py`).
pub fn claim(way: &str, address: impl ToString, port: u16, names: &[&str]) -> Vec<String> {
    let mut line = python(
        "claim.py",
        [way.to_owned(), address.to_string(), port.to_string()],
    );
    line.extend(names.iter().map(|&name| name.to_owned()));
    line
}

/// The command that asks for one thing after the other on one connection (see `clients/asks.py`).
pub fn asks(host: &str, port: u16, heads: &[&str]) -> Vec<String> {
    let mut line = python("asks.py", [host.to_owned(), port.to_string()]);
    line.extend(heads.iter().map(|&head| head.to_owned()));
    line
}

/// The command that looks names up over TCP (see `clients/dns_tcp.py`).
pub fn dns_tcp(arguments: &[&str]) -> Vec<String> {
    python(
        "dns_tcp.py",
        arguments.iter().map(|&argument| argument.to_owned()),
    )
}

/// The command that holds a connection open and says what has become of it (see `clients/hold.py`).
pub fn hold(way: &str, address: impl ToString, port: u16) -> Vec<String> {
    python(
        "hold.py",
        [way.to_owned(), address.to_string(), port.to_string()],
    )
}

/// The command that says how many programs are attached to a cgroup (see `clients/attached_programs.py`).
pub fn attached_programs(cgroup: &Path) -> Vec<String> {
    python("attached_programs.py", [cgroup.display().to_string()])
}

/// The command that runs two others in turns, and says how long each takes (see `clients/turns.py`).
pub fn turns(times: usize, pause: Duration, commands: [&[String]; 2]) -> Vec<String> {
    let word = |command: &[String]| serde_json::json!(command).to_string();
    python(
        "turns.py",
        [
            times.to_string(),
            pause.as_secs_f64().to_string(),
            word(commands[0]),
            word(commands[1]),
        ],
    )
}

/// The command that mounts a file system which answers nobody (see `clients/hanging_files.py`).
pub fn hanging_files(at: &Path) -> Vec<String> {
    python("hanging_files.py", [at.display().to_string()])
}

/// Build the client that tries ways around a guard (see `clients/escape.c`).
pub fn escape(world: &World) -> String {
    build(world, "gcc", &["-O1"], "escape")
}

/// Build what holds other people's BPF programs (see `clients/foreign.c`).
pub fn foreign(world: &World) -> String {
    build(world, "gcc", &["-O1"], "foreign")
}

/// Build the client that looks names up with musl's resolver.
pub fn musl_lookup(world: &World) -> String {
    build(world, "musl-gcc", &["-static", "-O1"], "lookup")
}

/// With gcc, or musl-gcc (package musl-tools).
fn build(world: &World, compiler: &str, flags: &[&str], name: &str) -> String {
    let program = world.dir().join(name);
    let status = Command::new(compiler)
        .args(flags)
        .arg("-o")
        .args([&program, &source(&format!("{name}.c"))])
        .status()
        .unwrap_or_else(|error| panic!("run {compiler}: {error}"));
    assert!(status.success(), "the client {name} does not build");
    program.display().to_string()
}

/// Wait until whoever counts into this file has made `more` further rounds; its last counts.
pub fn counts_after(file: &Path, more: u32) -> String {
    let read = || fs::read_to_string(file).unwrap_or_default();
    let (begin, mut last, mut seen) = (Instant::now(), read(), 0);
    while seen < more {
        assert!(
            begin.elapsed() < PATIENCE,
            "the looker does not go on: {last}"
        );
        sleep(Duration::from_millis(10));
        let now = read();
        if now != last {
            (last, seen) = (now, seen + 1);
        }
    }
    last
}
