//! Whose answers give leases, and what a lease does to the next attempt.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use blackstart_core::policy;
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, RULE_LINK_LOCAL, RULE_REVERSE, RULE_SEARCH, compile};
use libbpf_rs::{MapCore, MapFlags};

use super::message::{A, AAAA, IN, Message, QUESTION, name};
use super::wire::{ALLOW_ALL, Got, SERVERS, Seen, Wire, need_root, refused};
use crate::abi;
use crate::fill::words;
use crate::session::{Feature, LeftOut, Session, Settings};

/// Is a connect to this address let through?
fn connect(wire: &Wire, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    let socket = wire.unconnected(address);
    match socket.connect((address, 443)) {
        Ok(()) => true,
        Err(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => false,
            // Passed by the programs; this name space has no routes.
            Some(libc::ENETUNREACH) => true,
            _ => panic!("{error}"),
        },
    }
}

/// A lease may end with the time that its answer gives it, or last as long as the run.
#[test]
fn a_lease_ends_where_the_policy_has_it_end() {
    // As bs_moment() counts: steps of 2^20 ns.
    let moment = || -> u32 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        ((now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) >> 20) as u32
    };
    let seconds = |steps: u32| f64::from(steps) * f64::from(1 << 20) / 1e9;
    for lease in ["run", "ttl"] {
        let wire = Wire::enforce(&format!(
            "default: deny\nlease: {lease}\nrules:\n  - allow: .good.test\n"
        ));
        let resolve = |ttl: u32| {
            let client = wire.client(SERVERS[0]);
            let query = Message::query(9, "www.good.test", A);
            let answer = Message::reply(9, "www.good.test", A)
                .address(QUESTION, "192.0.2.1")
                .lasting(ttl);
            let got = wire.exchange(&client, &query, &answer).unwrap();
            assert_eq!(got, Got::Answer);
        };
        let leases = &wire.session.maps.bs_leases;
        assert!(!connect(&wire, "192.0.2.1"), "nobody asked yet");
        let row = || -> (Vec<u8>, abi::bs_lease) {
            let mut keys = leases.keys();
            let key = keys.find(|key| key.ends_with(&[192, 0, 2, 1])).unwrap();
            let row = leases.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            (key, abi::value(&row).unwrap())
        };
        let lasts = || seconds(row().1.until[0].wrapping_sub(moment()));
        let end = || {
            let (key, mut row) = row();
            row.until[0] = moment().wrapping_sub(1000) | 1;
            leases
                .update(&key, abi::octets(&row), MapFlags::ANY)
                .unwrap();
        };

        resolve(300);
        assert!((290.0..302.0).contains(&lasts()), "{}", lasts());
        assert!(connect(&wire, "192.0.2.1"));
        // Another answer never makes it shorter.
        resolve(20);
        assert!(lasts() > 280.0, "{}", lasts());
        end();
        assert_eq!(connect(&wire, "192.0.2.1"), lease == "run");
        // Whoever looked a name up can use its address, whatever the answer says.
        for (ttl, least, most) in [(0, 2.0, 6.0), (u32::MAX, 2.0, 6.0)] {
            end();
            resolve(ttl);
            assert!((least..most).contains(&lasts()), "{ttl}: {}", lasts());
            assert!(connect(&wire, "192.0.2.1"));
        }
        resolve(0x7fff_ffff);
        assert!((604_000.0..605_000.0).contains(&lasts()), "{}", lasts());
    }
}

/// Where no end of a run is there to hold them by, leases last for ten minutes at least.
#[test]
fn a_lease_of_what_is_attached_to_lasts_for_a_while() {
    let seconds = |steps: u32| f64::from(steps) * f64::from(1 << 20) / 1e9;
    for (lease, ttl, least, most) in [
        ("run", 0, 590.0, 605.0),
        ("run", 30, 590.0, 605.0),
        ("run", 900, 890.0, 905.0),
        ("ttl", 30, 20.0, 35.0),
    ] {
        let wire = Wire::attached(&format!(
            "default: deny\nlease: {lease}\nrules:\n  - allow: .good.test\n"
        ));
        let client = wire.client(SERVERS[0]);
        let query = Message::query(9, "www.good.test", A);
        let answer = Message::reply(9, "www.good.test", A)
            .address(QUESTION, "192.0.2.1")
            .lasting(ttl);
        let got = wire.exchange(&client, &query, &answer).unwrap();
        assert_eq!(got, Got::Answer);
        assert!(connect(&wire, "192.0.2.1"));
        let leases = &wire.session.maps.bs_leases;
        let mut keys = leases.keys();
        let key = keys.find(|key| key.ends_with(&[192, 0, 2, 1])).unwrap();
        let octets = leases.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        let mut row: abi::bs_lease = abi::value(&octets).unwrap();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        let now = ((now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) >> 20) as u32;
        let lasts = seconds(row.until[0].wrapping_sub(now));
        assert!((least..most).contains(&lasts), "{lease}, {ttl}: {lasts}");
        // And then it is over.
        row.until[0] = now.wrapping_sub(1000) | 1;
        leases
            .update(&key, abi::octets(&row), MapFlags::ANY)
            .unwrap();
        assert!(!connect(&wire, "192.0.2.1"), "{lease}, {ttl}");
    }
}

/// The lease that the next connect asks, by its verdict.
#[test]
fn a_lease_permits_or_refuses_the_next_connect() {
    let resolve = |wire: &Wire, asked: &str, answer: Message| {
        let client = wire.client(SERVERS[0]);
        let query = Message::query(9, asked, A);
        assert_eq!(
            wire.exchange(&client, &query, &answer).unwrap(),
            Got::Answer
        );
    };
    let reply = |asked: &str| Message::reply(9, asked, A);

    let wire = Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n  - deny: .bad.test\n");
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert!(!connect(&wire, address), "no lease yet");
        resolve(
            &wire,
            "www.good.test",
            reply("www.good.test").address(QUESTION, address),
        );
        assert!(connect(&wire, address));
    }
    assert!(!connect(&wire, "192.0.2.2"), "a neighbour");
    let through_bad = reply("x.good.test")
        .cname(QUESTION, &name("cdn.bad.test"))
        .address(&name("cdn.bad.test"), "192.0.2.3");
    resolve(&wire, "x.good.test", through_bad);
    assert!(
        !connect(&wire, "192.0.2.3"),
        "a chain that touches a denied name"
    );

    let wire = Wire::observe("default: allow\nrules:\n  - deny: .bad.test\n");
    resolve(
        &wire,
        "bad.test",
        reply("bad.test").address(QUESTION, "192.0.2.1"),
    );
    resolve(
        &wire,
        "bad.test",
        reply("bad.test").address(QUESTION, "192.0.2.2"),
    );
    resolve(
        &wire,
        "good.test",
        reply("good.test").address(QUESTION, "192.0.2.2"),
    );
    let mut wire = wire;
    wire.session.set_mode(Mode::Enforce).unwrap();
    assert!(!connect(&wire, "192.0.2.1"), "every name of it is denied");
    assert!(connect(&wire, "192.0.2.2"), "one of its names is not");
    assert!(connect(&wire, "192.0.2.3"), "never leased");
}

/// Of a chain the link counts that is denied most strongly: not one that is denied for another port or for the record
/// only, though it comes first; wherever it stands.
#[test]
fn the_link_that_is_denied_most_strongly_counts() {
    let wire = Wire::enforce(
        "default: allow\nrules:\n  - deny: .port.test:22\n  - {deny: .record.test, mode: observe}\n  - deny: .bad.test\n",
    );
    let resolve = |asked: &str, links: &[&str], address: &str| {
        let client = wire.client(SERVERS[0]);
        let query = Message::query(9, asked, A);
        let (mut answer, mut owner) = (Message::reply(9, asked, A), QUESTION.to_vec());
        for link in links {
            answer = answer.cname(&owner, &name(link));
            owner = name(link);
        }
        let answer = answer.address(&owner, address);
        let got = wire.exchange(&client, &query, &answer).unwrap();
        assert_eq!(got, Got::Answer);
    };
    let links = ["a.port.test", "a.record.test", "a.bad.test"];
    for (n, order) in [[0, 1, 2], [2, 0, 1], [1, 2, 0]].into_iter().enumerate() {
        let address = format!("192.0.2.{n}");
        let chain = order.map(|link| links[link]);
        resolve(&format!("x{n}.good.test"), &chain, &address);
        assert!(!connect(&wire, &address), "{chain:?}");
    }
    for (n, order) in [[0, 1], [1, 0]].into_iter().enumerate() {
        let address = format!("192.0.2.{}", 10 + n);
        let chain = order.map(|link| links[link]);
        resolve(&format!("y{n}.good.test"), &chain, &address);
        assert!(connect(&wire, &address), "{chain:?}");
    }
}

/// A lease has a slot for each class of names, up to a number. One more class takes the oldest's, and that is counted.
#[test]
fn what_makes_room_in_a_lease_is_counted() {
    let slots = abi::zeroed::<abi::bs_lease>().slot.len() as u32;
    let mut rules = String::from("default: allow\nrules:\n");
    for n in 0..=slots {
        rules += &format!("  - deny: .c{n}.test\n");
    }
    let wire = Wire::observe(&rules);
    let client = wire.client(SERVERS[0]);
    let lease = |n: u32| {
        let asked = format!("www.c{n}.test");
        let answer = Message::reply(9, &asked, A).address(QUESTION, "192.0.2.1");
        let got = wire.exchange(&client, &Message::query(9, &asked, A), &answer);
        assert_eq!(got.unwrap(), Got::Answer);
    };
    (0..slots).for_each(lease);
    // Of a class that is there already.
    lease(slots - 1);
    assert_eq!(wire.counters().leases_evicted, 0);
    lease(slots);
    assert_eq!(wire.counters().leases_evicted, 1);
    assert_eq!(wire.counters().leases_lost, 0);
}

/// Under `default: deny` what permits must come from a server that the run was told to trust: whoever may bind
/// a port 53 could otherwise serve itself a lease for any address.
#[test]
fn a_server_that_is_not_listed_gives_no_lease_that_permits() {
    let stranger = IpAddr::from([127, 0, 0, 2]);
    let query = Message::query(9, "www.good.test", A);
    let answer = Message::reply(9, "www.good.test", A).address(QUESTION, "192.0.2.1");
    for (rules, leases) in [
        ("default: deny\nrules:\n  - allow: .good.test\n", 0),
        ("default: allow\nrules:\n  - deny: .evil.test\n", 1),
    ] {
        let wire = Wire::enforce(rules);
        let server = UdpSocket::bind((stranger, 53)).unwrap();
        let client = wire.client(stranger);
        client.send(&query.0).unwrap();
        server
            .send_to(&answer.0, client.local_addr().unwrap())
            .unwrap();
        assert_eq!(client.recv(&mut [0; 512]).unwrap(), answer.len());
        let seen = wire.snapshot();
        assert_eq!(seen.leases("www.good.test").len(), leases);
        assert_eq!(seen.counters.answers_unasked, 0);

        let client = wire.client(SERVERS[0]);
        assert_eq!(
            wire.exchange(&client, &query, &answer).unwrap(),
            Got::Answer
        );
        assert_eq!(wire.snapshot().leases("www.good.test"), ["192.0.2.1"]);
    }
}

#[test]
fn a_name_on_the_search_list_passes_without_a_lease() {
    let rules = "default: deny\nrules:\n  - allow: .good.test\n  - deny: .bad.corp.test\n";
    let mut wire = Wire::searching(rules, &["corp.test"]);
    wire.session.set_mode(Mode::Enforce).unwrap();
    let client = wire.client(SERVERS[0]);
    let ask = |asked: &str| {
        let query = Message::query(9, asked, A);
        let answer = Message::reply(9, asked, A).address(QUESTION, "192.0.2.1");
        wire.exchange(&client, &query, &answer)
    };
    assert_eq!(ask("www.good.test.corp.test").unwrap(), Got::Answer);
    assert!(refused(&ask("www.bad.corp.test")));
    assert!(refused(&ask("www.evil.test")));
    assert_eq!(ask("www.good.test").unwrap(), Got::Answer);
    let seen = wire.snapshot();
    assert_eq!(
        seen.query("www.good.test.corp.test").unwrap().rule,
        RULE_SEARCH
    );
    assert_eq!(seen.answers.len(), 1);
    assert_eq!(seen.leases("www.good.test"), ["192.0.2.1"]);
}

/// A socket of one family may speak the other: its hooks see `::ffff:127.0.0.1`, its packets are IPv4.
#[test]
fn a_mapped_server_is_the_same_server() {
    let wire = Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n");
    let query = Message::query(9, "www.good.test", A);
    let denied = Message::query(9, "www.evil.test", A);
    let answer = Message::reply(9, "www.good.test", A).address(QUESTION, "192.0.2.1");
    let server = wire.server(SERVERS[0]);
    let mut octets = [0; 512];
    for connected in [true, false] {
        let client = wire.unconnected(SERVERS[1]);
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let send = |message: &Message| {
            if connected {
                client.connect((mapped, 53)).unwrap();
                client.send(&message.0)
            } else {
                client.send_to(&message.0, (mapped, 53))
            }
        };
        assert!(refused(&send(&denied)));
        send(&query).unwrap();
        let (_, from) = server.recv_from(&mut octets).unwrap();
        server.send_to(&answer.0, from).unwrap();
        assert_eq!(client.recv(&mut octets).unwrap(), answer.len());
        assert_eq!(wire.snapshot().leases("www.good.test"), ["192.0.2.1"]);
        assert_eq!(wire.counters().answers_unasked, 0);
        wire.forget_answers();
    }
}

/// As musl does it: one unconnected socket asks several servers at once.
#[test]
fn an_unconnected_socket_is_judged_and_leased_like_any_other() {
    let wire = Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n");
    let query = Message::query(9, "www.good.test", A);
    let denied = Message::query(9, "www.evil.test", A);
    for (address, leased) in SERVERS.into_iter().zip(["192.0.2.1", "2001:db8::1"]) {
        let client = wire.unconnected(address);
        assert!(refused(&client.send_to(&denied.0, (address, 53))));
        client.send_to(&query.0, (address, 53)).unwrap();
        let mut octets = [0; 512];
        let (_, from) = wire.server(address).recv_from(&mut octets).unwrap();
        let answer = Message::reply(9, "www.good.test", A).address(QUESTION, leased);
        wire.server(address).send_to(&answer.0, from).unwrap();
        assert_eq!(client.recv(&mut octets).unwrap(), answer.len());
    }
    assert_eq!(
        wire.snapshot().leases("www.good.test"),
        ["192.0.2.1", "2001:db8::1"]
    );
}

#[test]
fn another_server_cannot_answer() {
    let wire = Wire::observe(ALLOW_ALL);
    // Unconnected: the kernel itself would drop what comes from elsewhere on a connected one.
    let client = wire.unconnected(SERVERS[0]);
    let liar = UdpSocket::bind(("127.0.0.2", 53)).unwrap();
    let query = Message::query(9, "shop.test", A);
    let answer = Message::reply(9, "shop.test", A).address(QUESTION, "192.0.2.66");
    client.send_to(&query.0, (SERVERS[0], 53)).unwrap();
    let local = ("127.0.0.1", client.local_addr().unwrap().port());
    liar.send_to(&answer.0, local).unwrap();
    let mut octets = [0; 512];
    client.recv(&mut octets).unwrap();
    let seen = wire.snapshot();
    assert_eq!((seen.counters.answers_unasked, seen.answers.len()), (1, 0));
    wire.server(SERVERS[0]).send_to(&answer.0, local).unwrap();
    client.recv(&mut octets).unwrap();
    let seen = wire.snapshot();
    assert_eq!((seen.counters.answers_unasked, seen.answers.len()), (1, 1));
}

#[test]
fn what_nobody_asked_for_gives_no_lease() {
    let asked = "shop.test";
    let query = Message::query(9, asked, A);
    let sound = Message::reply(9, asked, A).address(QUESTION, "192.0.2.66");
    let cases = [
        (
            "another id",
            Message::reply(10, asked, A).address(QUESTION, "192.0.2.66"),
        ),
        (
            "another name",
            Message::reply(9, "shup.test", A).address(QUESTION, "192.0.2.66"),
        ),
        (
            "another type",
            Message::reply(9, asked, AAAA).address(QUESTION, "192.0.2.66"),
        ),
    ];
    for mode in [Mode::Observe, Mode::Enforce] {
        let mut wire = Wire::observe(ALLOW_ALL);
        wire.session.set_mode(mode).unwrap();
        let client = wire.client(SERVERS[0]);
        let arrives = if mode == Mode::Observe {
            Got::Answer
        } else {
            Got::Nothing
        };
        for ((what, answer), count) in cases.iter().zip(1..) {
            assert_eq!(
                wire.exchange(&client, &query, answer).unwrap(),
                arrives,
                "{what}"
            );
            assert_eq!(wire.counters().answers_unasked, count, "{what}");
        }
        // Another socket of the run waits for nothing.
        let other = wire.client(SERVERS[0]);
        wire.server(SERVERS[0])
            .send_to(&sound.0, other.local_addr().unwrap())
            .unwrap();
        wire.mark(&other);
        assert_eq!(wire.take(&other, &sound.0).unwrap(), arrives);
        assert_eq!(wire.counters().answers_unasked, 4);
        assert!(wire.snapshot().answers.is_empty());

        assert_eq!(wire.exchange(&client, &query, &sound).unwrap(), Got::Answer);
        let seen = wire.snapshot();
        assert_eq!(seen.leases(asked), ["192.0.2.66"]);
        assert_eq!(seen.counters.answers_malformed, 0);
    }
}

#[test]
fn of_answers_to_a_denied_lookup_only_a_name_error_without_records_passes() {
    let wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    for (server, asked) in SERVERS.into_iter().zip(["a.evil.test", "b.evil.test"]) {
        let client = wire.client(server);
        let query = Message::query(9, asked, A);
        let reply = |rcode: u16| Message::header(9, 0x8180 | rcode).question(&name(asked), A, IN);
        let before = wire.counters().answers_dropped;
        let dropped = [
            reply(0).address(QUESTION, "192.0.2.66"),
            reply(3).address(QUESTION, "192.0.2.66"),
            reply(0),
            reply(2),
            reply(5),
        ];
        for (answer, count) in dropped.iter().zip(1..) {
            assert_eq!(
                wire.exchange(&client, &query, answer).unwrap(),
                Got::Nothing
            );
            assert_eq!(wire.counters().answers_dropped, before + count);
        }
        for answer in [reply(3), reply(3).edns()] {
            assert_eq!(
                wire.exchange(&client, &query, &answer).unwrap(),
                Got::Answer
            );
        }
        assert_eq!(
            wire.counters().answers_dropped,
            before + dropped.len() as u64
        );
        assert!(wire.snapshot().answers.is_empty());
    }
}

#[test]
fn without_a_supervisor_a_denied_query_does_not_go_out() {
    let wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let client = wire.client(SERVERS[0]);
    assert!(!refused(&client.send(&Message::query(1, "evil.test", A).0)));
    wire.session.live.heart().set_heartbeat(1);
    assert!(refused(&client.send(&Message::query(1, "evil.test", A).0)));
    assert!(!refused(&client.send(&Message::query(1, "good.test", A).0)));
    wire.session.heartbeat().unwrap();
    assert!(!refused(&client.send(&Message::query(1, "evil.test", A).0)));
}

/// Resolvers with one socket for all their work (c-ares) ask much before anything is answered.
#[test]
fn many_queries_of_one_socket_wait_at_once() {
    let wire = Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n");
    let mut octets = [0; 512];
    for address in SERVERS {
        let client = wire.client(address);
        let asked = |n: u16| format!("n{n}.good.test");
        for n in 0..100 {
            client.send(&Message::query(n, &asked(n), A).0).unwrap();
        }
        let from = client.local_addr().unwrap();
        for n in (0..100).rev() {
            let answer = Message::reply(n, &asked(n), A).address(QUESTION, "192.0.2.1");
            wire.server(address).send_to(&answer.0, from).unwrap();
            assert_eq!(client.recv(&mut octets).unwrap(), answer.len());
        }
        let seen = wire.snapshot();
        assert_eq!(
            (seen.answers.len(), seen.counters.answers_unasked),
            (100, 0)
        );
        wire.forget_answers();
    }
}

/// An asker that lost patience asks again, and is answered twice.
#[test]
fn a_second_answer_to_the_same_query_passes() {
    let wire = Wire::enforce(ALLOW_ALL);
    let client = wire.client(SERVERS[0]);
    let query = Message::query(9, "shop.test", A);
    let answer = Message::reply(9, "shop.test", A).address(QUESTION, "192.0.2.1");
    client.send(&query.0).unwrap();
    assert_eq!(
        wire.exchange(&client, &query, &answer).unwrap(),
        Got::Answer
    );
    let server = wire.server(SERVERS[0]);
    server
        .send_to(&answer.0, client.local_addr().unwrap())
        .unwrap();
    wire.mark(&client);
    assert_eq!(wire.take(&client, &answer.0).unwrap(), Got::Answer);
    assert_eq!(wire.counters().answers_unasked, 0);
}

/// What is remembered of a socket ends with it, or the tables would be full after so many sockets. More are open
/// than there are seats: the rest lie in the hash table, and are none the worse for it.
#[test]
fn closed_sockets_leave_nothing_behind() {
    let wire = Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n");
    let query = Message::query(9, "www.good.test", A);
    let answer = Message::reply(9, "www.good.test", A).address(QUESTION, "192.0.2.1");
    let maps = &wire.session.maps;
    let many = maps.bs_seats.keys().count() + 40;
    let elsewhere = || maps.bs_sockets.keys().count();
    let seats = || -> Vec<abi::bs_seat> {
        let rows = maps.bs_seats.keys().map(|key| {
            let row = maps.bs_seats.lookup(&key, MapFlags::ANY).unwrap();
            abi::value(&row.expect("every key of an array has a row")).expect("a seat")
        });
        rows.collect()
    };
    let sitting = || seats().iter().filter(|seat| seat.cookie != 0).count();
    // A child that another test is just starting holds copies of our sockets until it execs: they close a moment later.
    let closed_but = |open: usize| {
        (0..1000).any(|_| {
            let done = sitting() + elsewhere() == open;
            if !done {
                thread::sleep(Duration::from_millis(10));
            }
            done
        })
    };
    let sent = || -> u64 { wire.snapshot().flows.iter().map(|row| row.bytes_sent).sum() };
    let open =
        |count: usize| -> Vec<UdpSocket> { (0..count).map(|_| wire.client(SERVERS[0])).collect() };
    let ask = |client: &UdpSocket| {
        assert_eq!(wire.exchange(client, &query, &answer).unwrap(), Got::Answer);
    };
    let length = 20 + 8 + query.0.len();

    let mut clients = open(many);
    clients.iter().for_each(ask);
    assert_eq!(sitting() + elsewhere(), many);
    assert!(elsewhere() >= 40 && sitting() > 0);
    let counted: u32 = seats().iter().map(|seat| seat.elsewhere).sum();
    assert_eq!(counted as usize, elsewhere());
    assert_eq!(sent(), (many * length) as u64);

    // Others sit down where the first ones sat, beside those that still have their rows elsewhere.
    clients.drain(..many / 2);
    assert!(closed_but(many - many / 2));
    clients.extend(open(many / 2));
    clients.iter().for_each(ask);
    assert_eq!(sitting() + elsewhere(), many);
    assert_eq!(sent(), (2 * many * length) as u64);
    assert_eq!(wire.counters().answers_unasked, 0);

    drop(clients);
    assert!(closed_but(0), "{} and {} left", sitting(), elsewhere());
    assert_eq!(sent(), (2 * many * length) as u64);
    // What was sent lies on the seats until somebody goes elsewhere from there; nothing else does.
    let swept = |seat: &abi::bs_seat| {
        let row = &seat.socket;
        let open = [row.verdict, row.dns, row.hooked].map(u64::from);
        let asked = row.asked.map(|asked| u64::from(asked.turn));
        let all = [seat.cookie, seat.elsewhere.into(), row.since.into()];
        [&all[..], &open, &asked].concat().iter().all(|n| *n == 0)
    };
    assert!(seats().iter().all(swept));
    let left = || -> u64 { seats().iter().map(|seat| seat.socket.bytes).sum() };
    assert!(left() > 0);
    // Other tests draw cookies, too: one round may leave a seat out.
    for _ in 0..20 {
        if left() > 0 {
            let elsewhere = (0..many).map(|_| wire.client(SERVERS[1]));
            drop(elsewhere.collect::<Vec<_>>());
            assert!(closed_but(0));
        }
    }
    assert_eq!(left(), 0);
    assert_eq!(sent(), (2 * many * length) as u64);
}

/// Attempts lie in their socket's row until it is taken for another flow; the record has them wherever they lie.
#[test]
fn attempts_are_in_the_record_wherever_they_lie() {
    let wire = Wire::observe(ALLOW_ALL);
    let recorded = || -> u64 { wire.snapshot().flows.iter().map(|row| row.attempts).sum() };
    let at = |port: u16| -> u64 {
        let flows = wire.snapshot().flows;
        let here = flows.iter().filter(|row| row.port == port);
        here.map(|row| row.attempts).sum()
    };
    let before = (recorded(), wire.counters().attempts);
    assert_eq!(before.0, before.1);
    let client = wire.unconnected(SERVERS[0]);
    let send = |port: u16, times: u64| {
        for _ in 0..times {
            // Nobody listens: what came back for the last one is told to the next.
            let _told = client.send_to(b"x", (SERVERS[0], port));
        }
    };
    send(7001, 5);
    assert_eq!(at(7001), 5);
    let held = |wire: &Wire| -> u32 {
        let maps = &wire.session.maps;
        let rows = maps.bs_seats.keys().map(|key| {
            let row = maps.bs_seats.lookup(&key, MapFlags::ANY).unwrap();
            abi::value::<abi::bs_seat>(&row.unwrap()).unwrap()
        });
        rows.map(|seat| seat.socket.attempts).sum()
    };
    assert_eq!(held(&wire), 4, "the first one made the flow's row");
    send(7002, 3);
    send(7001, 2);
    assert_eq!((at(7001), at(7002)), (7, 3));
    drop(client);
    assert_eq!((at(7001), at(7002)), (7, 3));
    assert_eq!(recorded() - before.0, 10);
    assert_eq!(wire.counters().attempts - before.1, 10);
    assert_eq!(wire.counters().lost, 0);
}

#[test]
fn of_more_addresses_than_there_is_room_for_resolvers_are_known_first() {
    need_root();
    let rule = |n: u32| format!("  - deny: n{n}.test\n");
    let rules: String = (0..20).map(rule).collect();
    let text = format!(
        "apiVersion: blackstart.dev/v1\nkind: Policy\ndefault: deny\nmode: enforce\nrules:\n{rules}"
    );
    let policy = policy::alone(&text, "test.yaml").unwrap().policy;
    let tables = compile(&policy, &Facts { search: Vec::new() }).unwrap();
    // By their numbers the resolvers would come last.
    let own: Vec<_> = (0..5000u32)
        .map(|n| Ipv4Addr::from(0x0a00_0000 + n).into())
        .collect();
    let resolvers = [
        IpAddr::from([192, 0, 2, 1]),
        own[7],
        "::ffff:192.0.2.1".parse().unwrap(),
    ];
    let hosts: Vec<_> = (0..20)
        .map(|n| (format!("n{n}.test"), IpAddr::from([198, 51, 100, 1])))
        .collect();
    let settings = Settings {
        tables: &tables,
        rules: 20,
        resolvers: &resolvers,
        own_addresses: &own,
        hosts: &hosts,
        forwarder: None,
        one_of_many: false,
        tracer: None,
    };
    let session = Session::load(&BTreeSet::from([Feature::Names]), &settings).unwrap();
    let known = |address: IpAddr| {
        let key = abi::bs_address {
            addr: words(address),
        };
        let row = session
            .maps
            .bs_leases
            .lookup(abi::octets(&key), MapFlags::ANY);
        let row: Option<abi::bs_lease> = row.unwrap().and_then(|octets| abi::value(&octets));
        row.map_or(0, |row| row.known)
    };
    let (is_own, resolver) = (
        abi::bs_known::BS_KNOWN_OWN.0,
        abi::bs_known::BS_KNOWN_RESOLVER.0,
    );
    assert_eq!(known(resolvers[0]), resolver);
    assert_eq!(known(resolvers[1]), resolver | is_own);
    assert_eq!((known(own[0]), known(own[4999])), (is_own, 0));
    assert_eq!(
        session.left_out(),
        LeftOut {
            own_addresses: 5001 - 4000,
            hosts: 20 - 16,
        }
    );
}

/// Whoever answers for an allowed name could say that it is the machine next door.
#[test]
fn no_name_permits_a_link_local_address() {
    let named = "  - allow: .good.test\n";
    let metadata = format!("{named}  - allow: 169.254.169.254\n");
    for (default, rules, address, passes) in [
        ("deny", named, "169.254.169.254", false),
        ("deny", named, "192.0.2.9", true),
        ("deny", &metadata, "169.254.169.254", true),
        ("deny", &metadata, "169.254.0.1", false),
        ("allow", named, "169.254.169.254", true),
    ] {
        let wire = Wire::enforce(&format!("default: {default}\nrules:\n{rules}"));
        let client = wire.client(SERVERS[0]);
        let query = Message::query(3, "www.good.test", A);
        let answer = Message::reply(3, "www.good.test", A).address(QUESTION, address);
        assert_eq!(
            wire.exchange(&client, &query, &answer).unwrap(),
            Got::Answer
        );
        assert_eq!(
            connect(&wire, address),
            passes,
            "{default} {rules}{address}"
        );
        if !passes {
            let flows = wire.snapshot().flows;
            let rule = flows.iter().find(|row| row.address.to_string() == address);
            assert_eq!(rule.map(|row| row.rule), Some(RULE_LINK_LOCAL));
        }
    }
}

/// The names of addresses may be asked for under an allow-list, unless a rule denies that; nothing is leased by it.
#[test]
fn the_name_of_an_address_may_be_asked_for() {
    const PTR: u16 = 12;
    for (rules, passes) in [
        ("  - allow: .good.test\n", true),
        ("  - deny: .in-addr.arpa\n", false),
    ] {
        let wire = Wire::enforce(&format!("default: deny\nrules:\n{rules}"));
        let client = wire.client(SERVERS[0]);
        let asked = "1.2.0.192.in-addr.arpa";
        let query = Message::query(4, asked, PTR);
        assert_eq!(!refused(&client.send(&query.0)), passes, "{rules}");
        let seen = wire.snapshot();
        let row = seen.query(asked).unwrap();
        assert_eq!(row.rule == RULE_REVERSE, passes);
        // As a query for an address: what it says permits nothing.
        let query = Message::query(5, asked, A);
        let answer = Message::reply(5, asked, A).address(QUESTION, "192.0.2.7");
        if passes {
            let client = wire.client(SERVERS[0]);
            client.send(&query.0).unwrap();
            let server = wire.server(SERVERS[0]);
            server
                .send_to(&answer.0, client.local_addr().unwrap())
                .unwrap();
            client.recv(&mut [0; 512]).unwrap();
        }
        assert!(!connect(&wire, "192.0.2.7"));
    }
}
