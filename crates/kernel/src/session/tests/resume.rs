//! What one process has pinned, in the hands of another one.

use std::fs;
use std::net::UdpSocket;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::message::{A, Message};
use super::wire::{Got, SERVERS, Seen, Wire, need_root};
use crate::{Event, Orphan, Session, Tracer};

#[test]
fn who_takes_over_hears_what_happens_and_has_the_record() {
    need_root();
    let mounted = tempfile::tempdir().unwrap();
    mount("bpf", mounted.path(), "bpf", MountFlags::empty(), None).unwrap();
    let pins = mounted.path().join("run");
    fs::create_dir(&pins).unwrap();
    let tracer = Arc::new(Tracer::load().unwrap());
    let mut wire = Wire::hosted("default: allow\nrules:\n  - deny: .evil.test\n", &tracer);
    let first = wire.client(SERVERS[0]);
    let denied = |wire: &Wire, client: &UdpSocket, id: u16, name: &str| {
        let (query, answer) = (Message::query(id, name, A), Message::reply(id, name, A));
        wire.exchange(client, &query, &answer)
    };
    assert_eq!(
        denied(&wire, &first, 1, "a.evil.test").unwrap(),
        Got::Nothing
    );
    wire.session.pin(&pins).unwrap();
    let (features, keys) = (wire.session.features(), wire.session.keys);

    // The one that loaded them is gone with this.
    wire.session = Session::resume(&pins, &features, 1).unwrap();
    assert_eq!(wire.session.features(), features);
    assert!(wire.session.enforces());
    let name = "x.evil.test".parse().unwrap();
    assert_eq!(wire.session.keys.of_name(&name), keys.of_name(&name));
    let mut told = Vec::new();
    let mut hear = |wire: &mut Wire| {
        wire.session
            .drain_events(1000, &mut |event| match event {
                Event::Lookup { name, answer, .. } => told.push((name, answer.is_some())),
                other => panic!("{other:?}"),
            })
            .unwrap();
        std::mem::take(&mut told)
    };
    // What nobody had read.
    assert_eq!(hear(&mut wire), [("a.evil.test".to_owned(), true)]);
    wire.session.heartbeat().unwrap();
    let client = wire.client(SERVERS[0]);
    assert_eq!(
        denied(&wire, &client, 2, "b.evil.test").unwrap(),
        Got::Nothing
    );
    let good = Message::query(3, "www.good.test", A);
    let answer = Message::reply(3, "www.good.test", A);
    assert_eq!(wire.exchange(&client, &good, &answer).unwrap(), Got::Answer);
    assert_eq!(hear(&mut wire), [("b.evil.test".to_owned(), true)]);
    let seen = wire.snapshot();
    for asked in ["a.evil.test", "b.evil.test", "www.good.test"] {
        assert_eq!(seen.query(asked).unwrap().queries, 1, "{asked}");
    }
    // Nobody gives answers any more.
    wire.session.live.heart().set_heartbeat(1);
    let error = denied(&wire, &client, 4, "c.evil.test").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    assert_eq!(hear(&mut wire), [("c.evil.test".to_owned(), false)]);

    Orphan::remove(&pins).unwrap();
    let error = Session::resume(&pins, &features, 1).err().unwrap();
    assert!(error.to_string().contains("of another release"), "{error}");
    unmount(mounted.path(), UnmountFlags::empty()).unwrap();
}
