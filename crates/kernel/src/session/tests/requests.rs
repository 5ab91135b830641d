//! Requests behind the first one of a connection, which are read as they leave.

use std::cell::Cell;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use blackstart_core::record::{Counters, Verdict};
use libbpf_rs::{MapCore as _, MapFlags};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::heads::real_hello;
use super::wire::{Wire, option};
use crate::abi;

const INSPECTED: u16 = 8080;
const RULES: &str = "default: allow\ninspect: [8080]\nrules:\n  - deny: evil.test\n";

/// What it takes to be sure that nothing comes: on loopback what is sent is there at once, but what is lost is sent again after
/// 0.2 seconds.
const QUIET: Duration = Duration::from_millis(700);

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A head of so many octets, whose Host is at its end.
fn large(host: &str, size: usize) -> Vec<u8> {
    let end = format!("\r\nHost: {host}\r\n\r\n");
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    while head.len() + end.len() + 100 < size {
        head.extend_from_slice(
            b"X-Filler: GET / HTTP/1.1, Host: other.test, and what else may be in a line\r\n",
        );
    }
    head.extend_from_slice(b"X-Last: ");
    head.resize(size - end.len(), b'x');
    head.extend_from_slice(end.as_bytes());
    head
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    came: Vec<u8>,
}

impl Connection {
    /// Each write is a packet of its own.
    fn new(wire: &Wire, server: &TcpListener) -> Self {
        Self::over(wire.stream(server.local_addr().unwrap().ip()), server)
    }

    fn over(socket: OwnedFd, server: &TcpListener) -> Self {
        rustix::net::connect(&socket, &server.local_addr().unwrap()).unwrap();
        let client = TcpStream::from(socket);
        client.set_nodelay(true).unwrap();
        let (server, _) = server.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        Self {
            client,
            server,
            came: Vec::new(),
        }
    }

    fn send(&mut self, octets: &[u8]) -> &mut Self {
        self.client.write_all(octets).unwrap();
        self.take();
        self
    }

    /// What has come so far.
    fn take(&mut self) {
        let mut octets = [0; 65536];
        loop {
            match self.server.read(&mut octets) {
                Ok(0) => return,
                Ok(length) => self.came.extend_from_slice(&octets[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// All of it comes, if not at once.
    fn comes(&mut self, all: &[u8]) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.came.len() < all.len() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            self.take();
        }
        assert!(self.came == all, "{} of {}", self.came.len(), all.len());
    }

    /// The client learns that nothing more goes.
    fn is_cut(&mut self) {
        let started = Instant::now();
        let error = self.client.read(&mut [0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{:?}",
            started.elapsed()
        );
        self.take();
    }
}

fn listening() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, INSPECTED)).unwrap()
}

/// Attempts at what is denied, and at anything else.
fn attempts(wire: &Wire) -> (u64, u64) {
    let flows = wire.snapshot().flows;
    let sum = |denied: bool| {
        let of_these = flows
            .iter()
            .filter(|row| (row.verdict == Verdict::Deny) == denied);
        of_these.map(|row| row.attempts).sum()
    };
    (sum(true), sum(false))
}

/// Nothing was left unread.
fn all_read(counters: &Counters) {
    let unread = [
        counters.claims_unread,
        counters.claims_unseen,
        counters.claims_later,
        counters.claims_full,
        counters.claims_busy,
    ];
    assert_eq!(unread, [0; 5]);
}

fn parts(wire: &Wire) -> usize {
    wire.session.maps.bs_parts.keys().count()
}

#[test]
fn a_later_request_is_read_wherever_it_is_cut() {
    let wire = Wire::listening(RULES);
    let server = listening();
    let first = [
        b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 4\r\n\r\nbody".to_vec(),
        // An empty line behind a body is none.
        b"\r\n".to_vec(),
    ]
    .concat();
    for (host, passes) in [("good.test", true), ("evil.test", false)] {
        let all = [first.clone(), request(host)].concat();
        let before = attempts(&wire).0;
        for cut in 1..all.len() {
            let mut connection = Connection::new(&wire, &server);
            connection.send(&all[..cut]);
            // Lost or not, the call itself succeeds.
            connection.send(&all[cut..]);
            let came = &connection.came;
            assert!(all.starts_with(came), "{cut}");
            assert_eq!(*came == all, passes, "{cut}");
            // What stands in a packet of its own before the refused one gets through.
            assert!(came.len() >= cut || cut < first.len(), "{cut}");
        }
        let denied = attempts(&wire).0 - before;
        assert_eq!(denied, if passes { 0 } else { all.len() as u64 - 1 });
    }
    all_read(&wire.snapshot().counters);
    assert_eq!(parts(&wire), 0);
}

#[test]
fn a_later_request_may_come_octet_by_octet_and_nothing_follows_a_refused_one() {
    let wire = Wire::listening(RULES);
    let server = listening();
    let mut connection = Connection::new(&wire, &server);
    for host in ["good.test", "good.test", "other.test"] {
        for octet in request(host) {
            connection.send(&[octet]);
        }
    }
    let passed = [
        request("good.test"),
        request("good.test"),
        request("other.test"),
    ]
    .concat();
    assert_eq!(connection.came, passed);
    connection.send(&request("evil.test"));
    connection.is_cut();
    assert_eq!(connection.came, passed);
    // The one connection, a later request for another host, and one that was refused.
    assert_eq!(attempts(&wire), (1, 2));
    all_read(&wire.snapshot().counters);
    assert_eq!(parts(&wire), 0);
}

/// One request of a stream: its octets, and whether it is for whom the policy denies.
fn random_request() -> impl Strategy<Value = (Vec<u8>, bool)> {
    // What looks like another request within a body is none.
    let body = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..300),
        (1..4usize).prop_map(|times| request("evil.test").repeat(times)),
    ];
    let filler = prop::collection::vec("X-[A-Za-z]{1,12}: [ -~]{0,60}\r\n", 0..4);
    let denied = prop::bool::weighted(0.2);
    (denied, 0..3usize, body, filler, 0..3usize).prop_map(|(denied, host, body, filler, lines)| {
        let host = if denied {
            ["evil.test", "EVIL.test:8080", "evil.test."][host]
        } else {
            ["good.test", "other.test", "notevil.test"][host]
        };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let mut text = format!("{method} / HTTP/1.1\r\n{}Host: {host}\r\n", filler.concat());
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        let behind = if body.is_empty() { 0 } else { lines };
        let octets = [text.into_bytes(), body, b"\r\n".repeat(behind / 2)].concat();
        (octets, denied)
    })
}

/// Whatever stands in a connection, and wherever it is cut: a denied request never arrives whole, nor does anything behind it, and without
/// one everything arrives.
#[test]
fn random_streams_of_requests_are_read_as_they_were_made() {
    const CASES: u32 = 400;
    let wire = Wire::listening(RULES);
    let server = listening();
    let streams = (
        prop::collection::vec(random_request(), 1..7),
        prop::collection::vec(1..400usize, 1..12),
    );
    let mut runner = TestRunner::new_with_rng(
        Config::with_cases(CASES),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let (connections, denials) = (Cell::new(0), Cell::new(0));
    let outcome = runner.run(&streams, |(requests, cuts)| {
        let first_denied = requests.iter().position(|(_, denied)| *denied);
        // The first head is refused by the call itself; here it is about the others.
        if first_denied == Some(0) {
            return Ok(());
        }
        let octets: Vec<_> = requests
            .iter()
            .flat_map(|(octets, _)| octets.clone())
            .collect();
        let begin: usize = requests[..first_denied.unwrap_or(requests.len())]
            .iter()
            .map(|(octets, _)| octets.len())
            .sum();
        let end = first_denied.map(|at| {
            let head = requests[at]
                .0
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            begin + head.expect("it ends") + 4
        });
        let mut connection = Connection::new(&wire, &server);
        let (mut at, mut turn, mut last_before) = (0, 0, 0);
        while at < octets.len() {
            let next = (at + cuts[turn % cuts.len()]).min(octets.len());
            if end.is_none_or(|end| next < end) {
                last_before = next;
            }
            connection.send(&octets[at..next]);
            (at, turn) = (next, turn + 1);
        }
        match end {
            None => connection.comes(&octets),
            Some(end) => {
                prop_assert!(octets.starts_with(&connection.came));
                prop_assert!(
                    connection.came.len() < end,
                    "{} of {end}",
                    connection.came.len()
                );
                // The first head waits until it is whole; but for that, what was sent before the last piece of the denied one has arrived.
                let first = requests[0]
                    .0
                    .windows(4)
                    .position(|four| four == b"\r\n\r\n");
                let whole_first = last_before >= first.expect("it ends") + 4;
                prop_assert!(!whole_first || connection.came.len() >= last_before);
                denials.set(denials.get() + 1);
            }
        }
        connections.set(connections.get() + 1);
        Ok(())
    });
    if let Err(TestError::Fail(why, value)) = outcome {
        panic!("{why}: {value:?}");
    }
    let (connections, denials) = (connections.get(), denials.get());
    assert!(
        denials > 100 && connections > 250,
        "{denials} of {connections}"
    );
    assert_eq!(attempts(&wire).0, denials);
    all_read(&wire.snapshot().counters);
    assert_eq!(parts(&wire), 0);
}

/// As many as are read of one packet, and then more: TCP sends these again.
#[test]
fn however_many_requests_are_in_a_packet_each_is_read() {
    let wire = Wire::listening(RULES);
    let server = listening();
    for (denials, many) in (1..).zip([10, 100, 1000]) {
        let many = request("good.test").repeat(many);
        let mut connection = Connection::new(&wire, &server);
        connection.send(&many).comes(&many);
        let mut connection = Connection::new(&wire, &server);
        connection.send(&[many.clone(), request("evil.test")].concat());
        connection.is_cut();
        assert!(many.starts_with(&connection.came));
        assert_eq!(attempts(&wire).0, denials);
    }
    all_read(&wire.snapshot().counters);
}

#[test]
fn a_later_head_may_be_large_and_one_that_is_too_large_is_told() {
    let wire = Wire::listening(RULES);
    let server = listening();
    for size in [4000, 4096, 4097, 8192, 12_000, 16_384] {
        for piece in [700, 4096, 16_384] {
            for (host, passes) in [("good.test", true), ("evil.test", false)] {
                let mut connection = Connection::new(&wire, &server);
                let (first, head) = (request("good.test"), large(host, size));
                connection.send(&first);
                for octets in head.chunks(piece) {
                    connection.send(octets);
                }
                let came = connection.came.len() - first.len();
                assert_eq!(came == head.len(), passes, "{size}, {piece}");
            }
        }
    }
    all_read(&wire.snapshot().counters);
    assert_eq!(parts(&wire), 0);
    let mut connection = Connection::new(&wire, &server);
    let all = [request("good.test"), large("evil.test", 20_000)].concat();
    connection.send(&all).comes(&all);
    assert_eq!(wire.snapshot().counters.claims_unread, 1);
    assert_eq!(parts(&wire), 0);
}

#[test]
fn what_is_said_in_a_tunnel_is_read_however_it_is_cut() {
    let wire = Wire::listening(RULES);
    let server = listening();
    let connect = b"CONNECT good.test:443 HTTP/1.1\r\nHost: good.test:443\r\n\r\n".to_vec();
    for (host, passes) in [("good.test", true), ("evil.test", false)] {
        let hello = real_hello(host);
        for piece in [1, 7, 100, hello.len()] {
            let mut connection = Connection::new(&wire, &server);
            // A proxy that asks who is there is asked once more.
            connection.send(&connect).send(&connect);
            for octets in hello.chunks(piece) {
                connection.send(octets);
            }
            let came = connection.came.len() - 2 * connect.len();
            assert_eq!(came == hello.len(), passes, "{host}, {piece}");
            // What comes then is nobody's business.
            if passes {
                let all = [connection.came.clone(), request("evil.test")].concat();
                connection.send(&request("evil.test")).comes(&all);
            }
        }
    }
    all_read(&wire.snapshot().counters);
}

/// The owner is gone before what it sent has left.
#[test]
fn what_is_sent_after_its_socket_is_closed_is_read() {
    let wire = Wire::listening(RULES);
    let server = listening();
    let mut connection = Connection::new(&wire, &server);
    let body = 3_000_000;
    let head = format!("POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: {body}\r\n\r\n");
    let all = [head.into_bytes(), vec![b'x'; body]].concat();
    let Connection { client, server, .. } = &mut connection;
    option(
        client,
        libc::SOL_SOCKET,
        // Beyond what the host lets users have.
        libc::SO_SNDBUFFORCE,
        &(4 * body as i32).to_ne_bytes(),
    );
    client
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    client
        .write_all(&[all.clone(), request("evil.test")].concat())
        .unwrap();
    // Nobody has read yet: most of it waits.
    let (client, mut server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    drop(connection);
    drop(client);
    let mut came = 0;
    let mut octets = vec![0; 1 << 20];
    let started = Instant::now();
    while attempts(&wire).0 == 0 && started.elapsed() < Duration::from_secs(20) {
        match server.read(&mut octets) {
            Ok(length) => came += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => break,
        }
    }
    std::thread::sleep(QUIET);
    while let Ok(length @ 1..) = server.read(&mut octets) {
        came += length;
    }
    assert!(came <= all.len(), "{came} of {}", all.len());
    assert_eq!(attempts(&wire).0, 1, "{came} of {}", all.len());
}

#[test]
fn a_head_in_pieces_that_finds_no_room_is_told() {
    let wire = Wire::listening(RULES);
    let server = listening();
    let parts = &wire.session.maps.bs_parts;
    let none = vec![0; size_of::<abi::bs_part>()];
    for key in 0..u64::from(parts.max_entries()) {
        parts
            .update(&(!key).to_ne_bytes(), &none, MapFlags::ANY)
            .unwrap();
    }
    let mut connection = Connection::new(&wire, &server);
    let evil = request("evil.test");
    connection
        .send(&request("good.test"))
        .send(&evil[..9])
        .send(&evil[9..]);
    assert_eq!(connection.came, [request("good.test"), evil].concat());
    assert_eq!(wire.snapshot().counters.claims_full, 1);
}

/// Where nobody knows where a request ends, another one is told; and a policy that denies what it does not allow has it told at
/// once.
#[test]
fn what_follows_a_request_without_an_end_is_told() {
    let chunked = b"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let only =
        "default: deny\ninspect: [8080]\nrules:\n  - allow: good.test\n  - allow: 127.0.0.0/24\n";
    let behind_an_empty_line = [b"\r\n".to_vec(), request("evil.test")].concat();
    let another_protocol = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for next in [request("evil.test"), behind_an_empty_line, another_protocol] {
        for (rules, unread, later) in [(RULES, 0, 1), (only, 1, 0)] {
            let wire = Wire::listening(rules);
            let server = listening();
            let mut connection = Connection::new(&wire, &server);
            connection.send(chunked).send(b"4\r\nbody\r\n0\r\n\r\n");
            assert_eq!(wire.snapshot().counters.claims_later, 0);
            connection.send(&next).send(&next);
            let counters = wire.snapshot().counters;
            assert_eq!(
                (counters.claims_unread, counters.claims_later),
                (unread, later)
            );
        }
    }
}

/// With a header between IP's and TCP's nothing is found in a packet: it passes, and is told.
#[test]
fn what_is_behind_another_header_is_told() {
    let wire = Wire::listening(RULES);
    let server = TcpListener::bind((Ipv6Addr::LOCALHOST, INSPECTED)).unwrap();
    let connection = || {
        let to = server.local_addr().unwrap();
        let socket = wire.stream(to.ip());
        // Destination options that say nothing (RFC 8200, 4.2 and 4.6).
        let padding = [0, 0, 1, 4, 0, 0, 0, 0];
        option(&socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &padding);
        Connection::over(socket, &server)
    };
    // The first head is read as it is sent.
    let error = connection()
        .client
        .write_all(&request("evil.test"))
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    assert_eq!(wire.snapshot().counters.claims_unread, 0);
    let mut connection = connection();
    let all = [request("good.test"), request("evil.test")];
    connection.send(&all[0]).send(&all[1]).comes(&all.concat());
    assert_eq!(wire.snapshot().counters.claims_unread, 1);
}

/// A socket that was disconnected is read, or not, as its new port asks for.
#[test]
fn a_socket_that_is_used_anew_is_in_the_table_no_longer_than_it_is_read() {
    let wire = Wire::listening(RULES);
    let server = listening();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, INSPECTED + 1)).unwrap();
    let claimants = || wire.session.maps.bs_claimants.keys().count();
    let connection = Connection::new(&wire, &server);
    assert_eq!(claimants(), 1);
    rustix::net::connect_unspec(&connection.client).unwrap();
    let mut connection = Connection::over(connection.client.into(), &other);
    assert_eq!(claimants(), 0);
    connection.send(&request("evil.test"));
    assert_eq!(connection.came, request("evil.test"));
    rustix::net::connect_unspec(&connection.client).unwrap();
    let mut connection = Connection::over(connection.client.into(), &server);
    let error = connection
        .client
        .write_all(&request("evil.test"))
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
}
