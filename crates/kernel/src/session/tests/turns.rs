//! The same programs, for one start after the other.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use super::command::{ended, fifo, started};
use super::wire::{ALLOW_ALL, Wire};

#[test]
fn nobody_is_taken_for_who_had_its_number_in_an_earlier_turn() {
    let mut wire = Wire::following(ALLOW_ALL);
    let dir = tempfile::tempdir().unwrap();
    let (ready, go) = (fifo(dir.path(), "ready"), fifo(dir.path(), "go"));
    let steps: String = (1..=3)
        .map(|host| {
            format!(
                ": 9<>/dev/udp/127.0.0.{host}/9; echo >{}; read <{}; ",
                ready.display(),
                go.display()
            )
        })
        .collect();
    let child = started(wire.cgroup(), ["/bin/bash", "-c", &steps]);
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
    ended(&child);

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
