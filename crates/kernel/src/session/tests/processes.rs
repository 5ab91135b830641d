//! Who acted, where there is no room to keep that.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use blackstart_core::record::Verdict;
use libbpf_rs::{MapCore, MapFlags};

use super::command::{ended, fifo, started};
use super::wire::Wire;
use crate::abi;

/// One program may reach the address that is denied to all others.
const ONE_MAY: &str =
    "rules:\n  - deny: 127.0.0.0/8\n  - allow: 127.0.0.0/8\n    process: trusted\n";

/// Room for a process more than this table has is not there.
fn fill_subjects(wire: &Wire) {
    let map = &wire.session.maps.bs_subjects;
    let row: abi::bs_subject = abi::zeroed();
    let mut free = 0u64;
    // Numbers that no process comes to have.
    while map
        .update(
            &(1 << 40 | free).to_ne_bytes(),
            abi::octets(&row),
            MapFlags::ANY,
        )
        .is_ok()
    {
        free += 1;
    }
    assert!(free > 1000, "there was room before");
}

/// A program of this name, which is bash. A copy, since a link is followed; made by another process, since children that
/// tests beside this one start have what is open here until they exec, and what is open for writing nobody can execute.
fn bash_as(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    let made = std::process::Command::new("cp")
        .arg("/bin/bash")
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    path.display().to_string()
}

#[test]
fn an_image_without_a_row_has_no_rights_of_the_one_that_it_replaced() {
    let wire = Wire::following(ONE_MAY);
    let dir = tempfile::tempdir().unwrap();
    let (trusted, other) = (bash_as(dir.path(), "trusted"), bash_as(dir.path(), "other"));
    let (ready, go) = (fifo(dir.path(), "ready"), fifo(dir.path(), "go"));
    // No process but this one: what is started here would be counted as well.
    let reach = |host: u32| format!(": 9<>/dev/udp/127.0.0.{host}/9");
    let script = format!(
        "{}; echo >{}; read <{}; exec {other} -c '{}; {}'",
        reach(1),
        ready.display(),
        go.display(),
        reach(2),
        reach(3)
    );
    let child = started(wire.cgroup(), [&trusted, "-c", &script]);
    fs::read(&ready).unwrap();
    fill_subjects(&wire);
    let before = wire.counters().subjects_lost;
    fs::write(&go, "\n").unwrap();
    ended(&child);

    let seen = wire.snapshot();
    let flow = |host: u8| {
        let to = IpAddr::from([127, 0, 0, host]);
        let mut rows = seen.flows.iter().filter(|row| row.address == to);
        let row = rows.next().expect("an attempt");
        assert!(rows.next().is_none());
        (row.subject != 0, row.verdict)
    };
    assert_eq!(flow(1), (true, Verdict::Allow));
    assert_eq!(flow(2), (false, Verdict::Deny));
    assert_eq!(flow(3), (false, Verdict::Deny));
    assert_eq!(seen.counters.subjects_lost, before + 1, "one process");
}
