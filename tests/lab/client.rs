//! Clients that no distribution ships: small programs below `tests/clients`.

use std::path::Path;
use std::process::Command;

use crate::world::World;

/// The command that reaches for an address in a way that no ordinary tool does (see `clients/reach.py`).
pub fn reach(way: &str, address: impl ToString, port: u16) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/reach.py");
    vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        way.to_owned(),
        address.to_string(),
        port.to_string(),
    ]
}

/// The command that does so in a way that hardly any tool takes, past an address that is allowed (see `clients/odd.py`).
pub fn odd(way: &str, address: impl ToString, port: u16, allowed: impl ToString) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/odd.py");
    vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        way.to_owned(),
        address.to_string(),
        port.to_string(),
        allowed.to_string(),
    ]
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

/// The command that says whom a connection is for (see `clients/claim.py`).
pub fn claim(way: &str, address: impl ToString, port: u16, names: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/claim.py");
    let mut line = vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        way.to_owned(),
        address.to_string(),
        port.to_string(),
    ];
    line.extend(names.iter().map(|&name| name.to_owned()));
    line
}

/// The command that looks names up over TCP (see `clients/dns_tcp.py`).
pub fn dns_tcp(arguments: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/dns_tcp.py");
    let mut line = vec!["/usr/bin/python3".to_owned(), script.display().to_string()];
    line.extend(arguments.iter().map(|&argument| argument.to_owned()));
    line
}

/// The command that holds a connection open and says what has become of it (see `clients/hold.py`).
pub fn hold(way: &str, address: impl ToString, port: u16) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/hold.py");
    vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        way.to_owned(),
        address.to_string(),
        port.to_string(),
    ]
}

/// The command that says how many programs are attached to a cgroup (see `clients/attached_programs.py`).
pub fn attached_programs(cgroup: &Path) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/attached_programs.py");
    vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        cgroup.display().to_string(),
    ]
}

/// Build the client that tries ways around a guard (see `clients/escape.c`).
pub fn escape(world: &World) -> String {
    build(world, "escape")
}

/// Build what holds other people's BPF programs (see `clients/foreign.c`).
pub fn foreign(world: &World) -> String {
    build(world, "foreign")
}

fn build(world: &World, name: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("clients/{name}.c"));
    let program = world.dir().join(name);
    let status = Command::new("gcc")
        .args(["-O1", "-o"])
        .args([&program, &source])
        .status()
        .expect("run gcc (package gcc)");
    assert!(status.success(), "the client does not build");
    program.display().to_string()
}

/// Build the client that looks names up with musl's resolver.
pub fn musl_lookup(world: &World) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/lookup.c");
    let program = world.dir().join("musl-lookup");
    let status = Command::new("musl-gcc")
        .args(["-static", "-O1", "-o"])
        .args([&program, &source])
        .status()
        .expect("run musl-gcc (package musl-tools)");
    assert!(status.success(), "the musl client does not build");
    program.display().to_string()
}

/// The command that mounts a file system which answers nobody (see `clients/hanging_files.py`).
pub fn hanging_files(at: &Path) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/hanging_files.py");
    vec![
        "/usr/bin/python3".to_owned(),
        script.display().to_string(),
        at.display().to_string(),
    ]
}
