//! Queries on their way out: what is let through, what is refused, what is recorded.

use std::net::UdpSocket;

use blackstart_core::record::Verdict;
use blackstart_core::report::Mode;
use blackstart_core::tables::RULE_DEFAULT;

use super::message::{A, AAAA, CHAOS, IN, Message, QUESTION, SOA, Section, name};
use super::wire::{ALLOW_ALL, SERVERS, Seen, Wire, option, refused};
use crate::Event;

/// What `good.test` and all below it are allowed under, and nothing else.
const ONLY_GOOD: &str = "default: deny\nrules:\n  - allow: .good.test\n";

/// A name of this many octets in wire format, below `good.test`.
fn long_name(octets: usize) -> String {
    let mut left = octets - 1 - "_good_test".len();
    let mut labels = Vec::new();
    while left > 0 {
        let label = (left - 1).min(63);
        labels.push("x".repeat(label));
        left -= label + 1;
    }
    format!("{}.good.test", labels.join("."))
}

/// Queries that cannot be judged, each one change away from one that can.
fn unjudgeable() -> Vec<(&'static str, Message)> {
    let good = || Message::query(7, "www.good.test", A);
    let header = || Message::header(7, 0x0100);
    let mut cases = vec![
        ("no question", good().with(5, 0)),
        (
            "two questions",
            good().question(&name("www.good.test"), AAAA, IN),
        ),
        ("two questions told, one there", good().count(4, 1)),
        ("an answer told", good().count(6, 1)),
        ("an answer there", good().address(QUESTION, "192.0.2.1")),
        (
            "an authority record",
            good().record(Section::Authority, QUESTION, A, IN, &[192, 0, 2, 1]),
        ),
        ("a response", good().with(2, 0x81)),
        ("a status request", good().with(2, 0x11)),
        (
            "a compressed question",
            header().question(&[3, b'w', b'w', b'w', 0xc0, 12], A, IN),
        ),
        (
            "a question that is a pointer",
            header().question(&[0xc0, 12], A, IN),
        ),
        (
            "an extended label",
            header().question(b"\x41wwwwwwww\x04good\x04test\0", A, IN),
        ),
        (
            "a label of a type that does not exist",
            header().question(b"\x81www\x04good\x04test\0", A, IN),
        ),
        (
            "a dot inside a label",
            header().question(b"\x08www.good\x04test\0", A, IN),
        ),
        (
            "a NUL inside a label",
            header().question(b"\x03www\x07good\0tt\x04test\0", A, IN),
        ),
        (
            "a name of 256 octets",
            Message::query(7, &long_name(256), A),
        ),
        ("a name without an end", header().question(&[1; 300], A, IN)),
    ];
    let whole = good();
    for length in 0..whole.len() {
        cases.push(("cut short", Message(whole.0[..length].to_vec())));
    }
    cases
}

#[test]
fn a_denied_name_is_refused_and_an_allowed_one_is_not() {
    let wire = Wire::enforce(ONLY_GOOD);
    for server in SERVERS {
        let client = wire.client(server);
        for qtype in [A, AAAA] {
            assert!(!refused(
                &client.send(&Message::query(1, "www.good.test", qtype).0)
            ));
            assert!(refused(
                &client.send(&Message::query(2, "www.evil.test", qtype).0)
            ));
            assert!(refused(
                &client.send(&Message::query(3, "evilgood.test", qtype).0)
            ));
        }
    }
    let seen = wire.snapshot();
    for row in &seen.queries {
        assert_eq!(row.queries, 2, "once for each family");
        assert_ne!(row.subject, 0);
    }
    assert_eq!(seen.queries.len(), 6);
    let rows_of = |text: &str| {
        let id = seen.names.iter().find(|row| row.name == text).unwrap().id;
        let mut rows: Vec<_> = seen.queries.iter().filter(|row| row.name == id).collect();
        rows.sort_by_key(|row| row.qtype);
        let types: Vec<u16> = rows.iter().map(|row| row.qtype).collect();
        assert_eq!(types, [A, AAAA]);
        (rows[0].verdict, rows[0].rule)
    };
    assert_eq!(rows_of("www.good.test"), (Verdict::Allow, 1));
    assert_eq!(rows_of("www.evil.test"), (Verdict::Deny, RULE_DEFAULT));
    assert_eq!(rows_of("evilgood.test"), (Verdict::Deny, RULE_DEFAULT));
    assert_eq!(seen.counters.queries_malformed, 0);
    assert_eq!(seen.counters.queries_lost, 0);
}

#[test]
fn case_and_edns_change_nothing() {
    let wire = Wire::enforce(ONLY_GOOD);
    let client = wire.client(SERVERS[0]);
    for asked in ["www.good.test", "WWW.GOOD.TEST", "wWw.GooD.tEsT"] {
        assert!(!refused(&client.send(&Message::query(1, asked, A).0)));
        assert!(!refused(
            &client.send(&Message::query(1, asked, A).edns().0)
        ));
    }
    for asked in ["www.evil.test", "WWW.EVIL.TEST"] {
        assert!(refused(&client.send(&Message::query(1, asked, A).0)));
        assert!(refused(&client.send(&Message::query(1, asked, A).edns().0)));
    }
    let seen = wire.snapshot();
    assert_eq!(seen.query("www.good.test").unwrap().queries, 6);
    assert_eq!(seen.query("www.evil.test").unwrap().queries, 4);
    assert_eq!(seen.queries.len(), 2);
}

#[test]
fn octets_that_look_like_letters_are_not_folded() {
    // What stands beside the letters in ASCII, and differs from it by the bit that lower case adds.
    let wire = Wire::observe("default: allow\n");
    let client = wire.client(SERVERS[0]);
    let names = [
        "a@z.test",
        "a`z.test",
        "a[z.test",
        "a{z.test",
        "a-z.test",
        "a\rz.test",
        "az.test",
    ];
    for asked in names {
        client.send(&Message::query(1, asked, A).0).unwrap();
        client
            .send(&Message::query(1, &asked.replace('z', "Z"), A).0)
            .unwrap();
    }
    let seen = wire.snapshot();
    assert_eq!(seen.queries.len(), names.len());
    assert!(seen.queries.iter().all(|row| row.queries == 2));
}

#[test]
fn the_longest_name_is_judged_like_any_other() {
    let wire =
        Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n  - deny: .x.good.test\n");
    let client = wire.client(SERVERS[1]);
    for octets in [254, 255] {
        let asked = long_name(octets);
        let query = Message::query(1, &asked, A);
        assert_eq!(query.len(), 12 + octets + 4);
        assert!(!refused(&client.send(&query.0)), "{octets}");
        assert!(!refused(&client.send(&query.edns().0)), "{octets}");
        let denied = asked.replacen("x.good", "y.x.good", 1);
        let denied = denied[denied.len() - asked.len()..]
            .trim_start_matches('.')
            .to_owned();
        assert!(
            refused(&client.send(&Message::query(1, &denied, A).0)),
            "{denied}"
        );
        assert_eq!(wire.snapshot().query(&asked).unwrap().queries, 2);
    }
    assert!(refused(
        &client.send(&Message::query(1, &long_name(256), A).0)
    ));
    assert_eq!(wire.counters().queries_malformed, 1);
}

#[test]
fn what_cannot_be_judged_is_refused_in_enforce_and_counted_in_observe() {
    let mut wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    for server in SERVERS {
        let client = wire.client(server);
        for (what, message) in unjudgeable() {
            let before = wire.counters().queries_malformed;
            assert!(
                refused(&client.send(&message.0)),
                "{what}: {:02x?}",
                message.0
            );
            assert_eq!(wire.counters().queries_malformed, before + 1, "{what}");
        }
        let before = wire.counters().queries_malformed;
        assert!(!refused(
            &client.send(&Message::query(7, "www.good.test", A).0)
        ));
        assert_eq!(wire.counters().queries_malformed, before);
    }
    assert_eq!(
        wire.snapshot().queries.len(),
        1,
        "only the sound one has a row"
    );

    wire.session.set_mode(Mode::Observe).unwrap();
    let client = wire.client(SERVERS[0]);
    let before = wire.counters().queries_malformed;
    let cases = unjudgeable();
    for (what, message) in &cases {
        assert!(!refused(&client.send(&message.0)), "{what}");
    }
    assert_eq!(
        wire.counters().queries_malformed,
        before + cases.len() as u64
    );
}

#[test]
fn observe_lets_a_denied_name_pass_and_says_so() {
    let wire = Wire::observe(ONLY_GOOD);
    let client = wire.client(SERVERS[0]);
    assert!(!refused(
        &client.send(&Message::query(1, "www.evil.test", A).0)
    ));
    assert!(!refused(
        &client.send(&Message::query(1, "www.good.test", A).0)
    ));
    let seen = wire.snapshot();
    let evil = seen.query("www.evil.test").unwrap();
    assert_eq!(
        (evil.verdict, evil.rule),
        (Verdict::WouldDeny, RULE_DEFAULT)
    );
    assert_eq!(seen.query("www.good.test").unwrap().verdict, Verdict::Allow);
}

#[test]
fn other_classes_are_judged_by_name_too() {
    let wire = Wire::enforce(ONLY_GOOD);
    let client = wire.client(SERVERS[0]);
    let ask = |asked: &str| Message::header(1, 0x0100).question(&name(asked), A, CHAOS);
    assert!(!refused(&client.send(&ask("www.good.test").0)));
    assert!(refused(&client.send(&ask("version.bind").0)));
    assert!(
        refused(&client.send(&Message::header(1, 0x0100).question(&[0], A, IN).0)),
        "the root"
    );
}

#[test]
fn several_datagrams_in_one_buffer_are_refused() {
    fn segments(socket: &UdpSocket, size: i32) {
        option(
            socket,
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &size.to_ne_bytes(),
        );
    }
    let wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let good = Message::query(1, "www.good.test", A);
    let evil = Message::query(2, "www.evil.test", A);
    assert_eq!(good.len(), evil.len());
    let both = [good.0.clone(), evil.0.clone()].concat();
    let client = wire.client(SERVERS[0]);
    assert!(!refused(&client.send(&good.0)));
    assert_eq!(wire.counters().queries_malformed, 0);
    segments(&client, good.len() as i32);
    assert!(refused(&client.send(&both)));
    assert_eq!(wire.counters().queries_malformed, 1);
    segments(&client, 0);
    assert!(!refused(&client.send(&good.0)));
}

#[test]
fn a_denied_query_is_told_as_it_was_sent() {
    let mut wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    for server in SERVERS {
        let client = wire.client(server);
        client
            .send(&Message::query(0xbeef, "wWw.eViL.test", AAAA).edns().0)
            .unwrap();
        client
            .send(&Message::query(1, "www.good.test", A).0)
            .unwrap();
        let mut events = Vec::new();
        wire.session
            .drain_events(1000, &mut |event| events.push(event))
            .unwrap();
        let [
            Event::Lookup {
                name: text,
                qtype,
                verdict,
                rule,
                tgid,
                answer: Some(wanted),
                ..
            },
        ] = &events[..]
        else {
            panic!("one lookup that wants an answer: {events:?}");
        };
        assert_eq!(text, "www.evil.test");
        assert_eq!((*qtype, *verdict, *rule), (AAAA, Verdict::Deny, 1));
        assert_eq!(*tgid, std::process::id());
        assert_eq!(wanted.question, name("wWw.eViL.test"));
        assert_eq!(
            (wanted.id, wanted.flags, wanted.qtype, wanted.qclass),
            (0xbeef, 0x0100, AAAA, IN)
        );
        assert!(wanted.edns);
        assert_eq!(wanted.client, client.local_addr().unwrap());
        assert_eq!(wanted.server, (server, 53).into());
    }
}

#[test]
fn a_denied_name_of_any_length_is_told_whole() {
    let mut wire = Wire::enforce("default: allow\nrules:\n  - deny: .good.test\n");
    let client = wire.client(SERVERS[0]);
    let mut told = |names: &[String]| {
        for (id, name) in (0..).zip(names) {
            client.send(&Message::query(id, name, A).0).unwrap();
        }
        let mut questions = Vec::new();
        wire.session
            .drain_events(names.len() + 1, &mut |event| match event {
                Event::Lookup {
                    answer: Some(wanted),
                    ..
                } => questions.push(wanted.question),
                other => panic!("{other:?}"),
            })
            .unwrap();
        questions
    };
    // First what fills the buffer of events with anything but zeros.
    let names = vec![long_name(255); 200];
    for _ in 0..4 {
        assert_eq!(told(&names), vec![name(&names[0]); 200]);
    }
    let names: Vec<String> = (14..=255).map(long_name).collect();
    for some in names.chunks(200) {
        let wire_forms: Vec<Vec<u8>> = some.iter().map(|text| name(text)).collect();
        assert_eq!(told(some), wire_forms);
    }
}

#[test]
fn events_are_read_as_many_at_a_time_as_asked_for() {
    let mut wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let client = wire.client(SERVERS[0]);
    for n in 0..5 {
        let query = Message::query(n, &format!("n{n}.evil.test"), A);
        client.send(&query.0).unwrap();
    }
    for (most, expected) in [(2, 2), (2, 2), (2, 1), (2, 0)] {
        let mut events = 0;
        wire.session
            .drain_events(most, &mut |_| events += 1)
            .unwrap();
        assert_eq!(events, expected);
    }
}

#[test]
fn what_is_told_while_nobody_looks_is_read_later() {
    let mut wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let client = wire.client(SERVERS[0]);
    let mut told = Vec::new();
    for n in 0..3 {
        // Not mapped, and with nothing to be read.
        for _ in 0..n {
            wire.session.look_away();
            assert!(wire.session.drain_events(9, &mut |_| panic!()).is_ok());
        }
        let query = Message::query(n, &format!("n{n}.evil.test"), A);
        client.send(&query.0).unwrap();
        wire.session.look_away();
        let mut read = |event| match event {
            Event::Lookup { name, .. } => told.push(name),
            other => panic!("{other:?}"),
        };
        wire.session.drain_events(9, &mut read).unwrap();
    }
    assert_eq!(told, ["n0.evil.test", "n1.evil.test", "n2.evil.test"]);
}

#[test]
fn options_and_extension_headers_are_refused() {
    let wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let padding = [0, 0, 1, 4, 0, 0, 0, 0];
    let cases: [(_, i32, i32, &[u8]); 3] = [
        (
            SERVERS[0],
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            &[1, 1, 1, 1],
        ),
        (SERVERS[1], libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &padding),
        (SERVERS[1], libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &padding),
    ];
    let query = Message::query(1, "www.good.test", A);
    for (at, (server, level, name, value)) in (0..).zip(cases) {
        let client = wire.client(server);
        assert!(!refused(&client.send(&query.0)));
        assert_eq!(wire.counters().queries_malformed, at);
        option(&client, level, name, value);
        assert!(refused(&client.send(&query.0)), "option {name} of {level}");
        assert_eq!(wire.counters().queries_malformed, at + 1);
        option(&client, level, name, &[]);
        assert!(!refused(&client.send(&query.0)));
    }
}

#[test]
fn the_record_is_read_whole_however_long_it_is() {
    let wire = Wire::observe("default: allow\n");
    let client = wire.client(SERVERS[0]);
    for n in 0..30_000 {
        let query = Message::query(1, &format!("n{n}.good.test"), A);
        client.send(&query.0).unwrap();
    }
    let seen = wire.snapshot();
    assert_eq!((seen.queries.len(), seen.names.len()), (30_000, 30_000));
}

/// They change names on a server (RFC 1996, RFC 2136) and look nothing up.
#[test]
fn notifications_and_updates_pass_where_the_default_lets_them() {
    for (rules, pass) in [(ALLOW_ALL, true), (ONLY_GOOD, false)] {
        let wire = Wire::enforce(rules);
        let client = wire.client(SERVERS[0]);
        for (opcode, count) in [0x21, 0x29].into_iter().zip(1..) {
            let message = Message::query(7, "www.good.test", SOA).with(2, opcode);
            assert_eq!(!refused(&client.send(&message.0)), pass);
            assert_eq!(
                wire.counters().queries_malformed,
                count,
                "a gap in either case"
            );
        }
        assert!(wire.snapshot().queries.is_empty());
    }
}
