//! The same programs, for one start after the other.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::wire::{ALLOW_ALL, Wire};
use crate::spawn::{Command, SignalState, spawn};

#[test]
fn nobody_is_taken_for_who_had_its_number_in_an_earlier_turn() {
    let mut wire = Wire::following(ALLOW_ALL);
    let dir = tempfile::tempdir().unwrap();
    let fifo = |name: &str| {
        let path = dir.path().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        path
    };
    let (ready, go) = (fifo("ready"), fifo("go"));
    let steps: String = (1..=3)
        .map(|host| {
            format!(
                ": 9<>/dev/udp/127.0.0.{host}/9; echo >{}; read <{}; ",
                ready.display(),
                go.display()
            )
        })
        .collect();
    let argv = ["/bin/bash".to_owned(), "-c".to_owned(), steps].map(OsString::from);
    let child = spawn(&Command {
        argv: &argv,
        env: &[],
        cgroup: Some(wire.cgroup()),
        joins: &[],
        filter: None,
        contain: None,
        hide: None,
        no_new_privileges: false,
        signals: SignalState::current().unwrap(),
    })
    .unwrap();
    let done = || drop(fs::read(&ready).unwrap());
    let next = || fs::write(&go, "\n").unwrap();

    done();
    wire.session.detach().unwrap();
    next();
    done();
    let mark = wire.session.number_subject();
    let cgroup = wire.cgroup().try_clone_to_owned().unwrap();
    wire.session.turn_to(cgroup.as_fd()).unwrap();
    wire.session.guard(cgroup.as_fd()).unwrap();
    next();
    done();
    next();
    let pid = rustix::process::Pid::from_raw(child.pid).unwrap();
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).unwrap();

    let seen = wire.snapshot();
    let by = |host: u8| {
        let to = IpAddr::from([127, 0, 0, host]);
        let rows = seen.flows.iter().filter(|row| row.address == to);
        rows.map(|row| row.subject).collect::<Vec<_>>()
    };
    assert!(matches!(by(1)[..], [subject] if (1..mark).contains(&subject)));
    assert_eq!(by(2), [0; 0], "nothing was attached");
    assert!(
        matches!(by(3)[..], [subject] if subject > mark),
        "{:?}",
        by(3)
    );
    let last = seen.subjects.iter().find(|row| [row.id] == by(3)[..]);
    assert!(last.is_some_and(|row| row.ended_ns != 0), "{last:?}");
}
