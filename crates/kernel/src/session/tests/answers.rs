//! Answers on their way in, octet by octet: what becomes a lease, what is malformed.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use super::message::{A, AAAA, CHAOS, CNAME, IN, Message, QUESTION, SOA, Section, name, pointer};
use super::wire::{ALLOW_ALL, Got, SERVERS, Seen, Wire};
use blackstart_core::report::Mode;
use libbpf_rs::{MapCore as _, MapFlags};

/// Where the data of the first record stands, if its owner is a pointer to the question.
fn first_data(asked: &str) -> usize {
    Message::reply(0, asked, A).len() + 12
}

/// One exchange after the other, none with what the one before left.
struct Bench(Wire);

impl Bench {
    fn new() -> Self {
        Self(Wire::observe(ALLOW_ALL))
    }

    /// Ask for `asked` in observe mode, where everything reaches the client: what is leased then, and how many
    /// answers were malformed.
    fn leased(&mut self, asked: &str, answer: &Message) -> (Vec<String>, u64) {
        let wire = &mut self.0;
        wire.session.set_mode(Mode::Observe).unwrap();
        wire.forget_answers();
        let before = wire.counters();
        let client = wire.client(SERVERS[0]);
        let query = Message::query(9, asked, A);
        assert_eq!(wire.exchange(&client, &query, answer).unwrap(), Got::Answer);
        let seen = wire.snapshot();
        assert_eq!(seen.counters.answers_unasked, before.answers_unasked);
        let malformed = seen.counters.answers_malformed - before.answers_malformed;
        (seen.leases(asked), malformed)
    }

    /// The same under enforce: did it reach the client?
    fn reaches(&mut self, asked: &str, answer: &Message) -> bool {
        let wire = &mut self.0;
        wire.session.set_mode(Mode::Enforce).unwrap();
        let before = wire.counters().answers_malformed;
        let client = wire.client(SERVERS[1]);
        let query = Message::query(9, asked, A);
        let got = wire.exchange(&client, &query, answer).unwrap();
        let malformed = wire.counters().answers_malformed - before;
        assert_eq!(malformed, u64::from(got == Got::Nothing));
        got == Got::Answer
    }

    fn is_sound(&mut self, asked: &str, answer: &Message, addresses: &[&str]) {
        let (leases, malformed) = self.leased(asked, answer);
        assert_eq!(leases, addresses);
        assert_eq!(malformed, 0);
        assert!(self.reaches(asked, answer));
    }

    /// Malformed, and no lease comes of it.
    fn is_malformed(&mut self, asked: &str, answer: &Message, what: &str) {
        assert_eq!(self.leased(asked, answer), (vec![], 1), "{what}");
        assert!(!self.reaches(asked, answer), "{what}");
    }
}

/// As on a kernel that takes one answer's reader off for another's: the second one keeps its hands off what the first one
/// has read, and so do those after it until the first has ended.
#[test]
fn an_answer_that_comes_in_the_middle_of_another_is_not_read() {
    let mut bench = Bench::new();
    let answer = Message::reply(9, "a.test", A).address(QUESTION, "192.0.2.1");
    let claim = |bench: &Bench, taken: u64| {
        let map = &bench.0.session.maps.bs_scratch;
        let mut whole = vec![0; map.value_size() as usize];
        whole[..8].copy_from_slice(&taken.to_ne_bytes());
        let each = vec![whole; libbpf_rs::num_possible_cpus().unwrap()];
        map.update_percpu(&0u32.to_ne_bytes(), &each, MapFlags::ANY)
            .unwrap();
    };
    claim(&bench, 1);
    // The bench's own mark behind it is one, too.
    assert_eq!(bench.leased("a.test", &answer), (vec![], 2));
    claim(&bench, 0);
    bench.is_sound("a.test", &answer, &["192.0.2.1"]);
    bench.is_sound("a.test", &answer, &["192.0.2.1"]);
}

#[test]
fn addresses_of_both_families_are_leased_before_they_arrive() {
    for rules in [ALLOW_ALL, "default: deny\nrules:\n  - allow: .good.test\n"] {
        let wire = Wire::enforce(rules);
        for (server, asked) in SERVERS.into_iter().zip(["a.good.test", "b.good.test"]) {
            let client = wire.client(server);
            let v4 = Message::reply(1, asked, A)
                .address(QUESTION, "192.0.2.1")
                .address(QUESTION, "192.0.2.2")
                .edns();
            let v6 = Message::reply(2, asked, AAAA).address(QUESTION, "2001:db8::1");
            let got = wire.exchange(&client, &Message::query(1, asked, A).edns(), &v4);
            assert_eq!(got.unwrap(), Got::Answer);
            let got = wire.exchange(&client, &Message::query(2, asked, AAAA), &v6);
            assert_eq!(got.unwrap(), Got::Answer);
            let seen = wire.snapshot();
            assert_eq!(
                seen.leases(asked),
                ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
            );
            assert!(seen.chain(asked, "192.0.2.1").is_empty());
        }
        let counters = wire.counters();
        assert_eq!(
            (counters.answers_malformed, counters.answers_unasked),
            (0, 0)
        );
        assert_eq!((counters.answers_dropped, counters.leases_lost), (0, 0));
    }
}

#[test]
fn a_chain_is_followed_and_kept() {
    let wire = Wire::observe(ALLOW_ALL);
    let client = wire.client(SERVERS[0]);
    // Pointers to targets, a whole name, another case: all name the same.
    let answer = Message::reply(1, "www.shop.test", A).cname(QUESTION, &name("a.cdn.test"));
    let answer = answer.cname(&pointer(first_data("www.shop.test")), &name("B.cdn.test"));
    let answer = answer
        .cname(&name("b.CDN.test"), &name("c.test"))
        .address(&name("c.test"), "192.0.2.1")
        .address(&name("c.test"), "2001:db8::1");
    let got = wire.exchange(&client, &Message::query(1, "www.shop.test", A), &answer);
    assert_eq!(got.unwrap(), Got::Answer);
    let seen = wire.snapshot();
    assert_eq!(seen.leases("www.shop.test"), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(
        seen.chain("www.shop.test", "192.0.2.1"),
        ["a.cdn.test", "b.cdn.test", "c.test"]
    );
    assert!(seen.leases("c.test").is_empty(), "nobody asked for it");
    assert_eq!(seen.counters.answers_malformed, 0);
}

#[test]
fn a_target_compressed_into_the_question_is_read() {
    let mut bench = Bench::new();
    // `cdn` + a pointer to `.test` within the question `shop.test`.
    let target = [&b"\x03cdn"[..], &pointer(12 + 5)].concat();
    let answer = Message::reply(9, "shop.test", A)
        .cname(QUESTION, &target)
        .address(&name("cdn.test"), "192.0.2.1");
    bench.is_sound("shop.test", &answer, &["192.0.2.1"]);
}

#[test]
fn only_one_chain_from_the_question_counts() {
    let mut bench = Bench::new();
    let beside = Message::reply(9, "shop.test", A)
        .address(&name("other.test"), "192.0.2.66")
        .address(QUESTION, "192.0.2.1")
        .cname(&name("other.test"), &name("more.test"))
        .address(&name("more.test"), "192.0.2.66");
    bench.is_sound("shop.test", &beside, &["192.0.2.1"]);

    let two = Message::reply(9, "shop.test", A)
        .cname(QUESTION, &name("a.test"))
        .cname(QUESTION, &name("b.test"))
        .address(&name("b.test"), "192.0.2.66")
        .address(&name("a.test"), "192.0.2.1");
    bench.is_sound("shop.test", &two, &["192.0.2.1"]);
}

/// Servers put a chain in order (RFC 1034, 4.3.2, builds it that way), and stub resolvers read it in order.
/// What stands out of order gives no lease, and is not counted either.
#[test]
fn a_chain_out_of_order_gives_no_lease() {
    let mut bench = Bench::new();
    let answer = Message::reply(9, "shop.test", A)
        .address(&name("cdn.test"), "192.0.2.66")
        .cname(QUESTION, &name("cdn.test"));
    bench.is_sound("shop.test", &answer, &[]);
}

#[test]
fn a_circle_through_the_question_is_malformed() {
    let mut bench = Bench::new();
    let itself = Message::reply(9, "shop.test", A).cname(QUESTION, &name("SHOP.test"));
    let wide = Message::reply(9, "shop.test", A)
        .cname(QUESTION, &name("a.test"))
        .address(&name("a.test"), "192.0.2.66")
        .cname(&name("a.test"), &name("shop.test"))
        .address(QUESTION, "192.0.2.66");
    for answer in [itself, wide] {
        bench.is_malformed("shop.test", &answer, "");
    }
}

#[test]
fn a_chain_may_be_longer_than_any_resolver_follows() {
    let mut bench = Bench::new();
    let chain = |links: usize| {
        let mut answer = Message::reply(9, "n0.test", A);
        for link in 0..links {
            answer = answer.cname(
                &name(&format!("n{link}.test")),
                &name(&format!("n{}.test", link + 1)),
            );
        }
        answer.address(&name(&format!("n{links}.test")), "192.0.2.1")
    };
    for links in [1, 6, 7, 16, 32] {
        bench.is_sound("n0.test", &chain(links), &["192.0.2.1"]);
        let kept = bench.0.snapshot().chain("n0.test", "192.0.2.1");
        assert_eq!(kept.len(), links.min(6), "the first few are kept");
        assert_eq!(kept[0], "n1.test");
    }
    bench.is_malformed("n0.test", &chain(33), "too long");
}

#[test]
fn every_record_of_a_long_answer_is_leased() {
    let mut bench = Bench::new();
    for count in [64, 200] {
        let mut answer = Message::reply(9, "many.test", A);
        let mut addresses = Vec::new();
        for n in 0..count {
            let address = format!("192.0.2.{n}");
            answer = answer.address(QUESTION, &address);
            addresses.push(address);
        }
        let (mut leases, malformed) = bench.leased("many.test", &answer);
        leases.sort();
        addresses.sort();
        assert_eq!((leases, malformed), (addresses, 0));
    }
}

#[test]
fn only_the_answer_section_counts() {
    let mut bench = Bench::new();
    let answer = Message::reply(9, "shop.test", A)
        .address(QUESTION, "192.0.2.1")
        .record(Section::Authority, QUESTION, A, IN, &[192, 0, 2, 66])
        .record(Section::Additional, QUESTION, A, IN, &[192, 0, 2, 67])
        .edns();
    bench.is_sound("shop.test", &answer, &["192.0.2.1"]);
    let none = Message::reply(9, "shop.test", A).record(
        Section::Additional,
        QUESTION,
        A,
        IN,
        &[192, 0, 2, 67],
    );
    bench.is_sound("shop.test", &none, &[]);
}

#[test]
fn other_classes_types_and_lengths_give_no_lease() {
    let mut bench = Bench::new();
    let address = [192, 0, 2, 66];
    let answer = Message::reply(9, "shop.test", A)
        .record(Section::Answer, QUESTION, A, CHAOS, &address)
        .record(Section::Answer, QUESTION, A, 255, &address)
        .record(Section::Answer, QUESTION, SOA, IN, &address)
        .record(Section::Answer, QUESTION, A, IN, &address[..3])
        .record(Section::Answer, QUESTION, A, IN, &[])
        .record(Section::Answer, QUESTION, AAAA, IN, &address)
        .record(Section::Answer, QUESTION, A, IN, &[192, 0, 2, 66, 0])
        .record(Section::Answer, QUESTION, CNAME, CHAOS, &name("other.test"))
        .address(QUESTION, "192.0.2.1");
    bench.is_sound("shop.test", &answer, &["192.0.2.1"]);
}

#[test]
fn names_that_are_none_are_malformed() {
    let mut bench = Bench::new();
    let asked = "shop.test";
    let reply = || Message::reply(9, asked, A);
    let at = reply().len();
    let data = first_data(asked);
    let cases: Vec<(&str, Message)> = vec![
        (
            "an owner that points to itself",
            reply().address(&pointer(at), "192.0.2.66"),
        ),
        (
            "an owner that points ahead",
            reply().address(&pointer(at + 2), "192.0.2.66"),
        ),
        (
            "an owner that points behind the end",
            reply().address(&pointer(4000), "192.0.2.66"),
        ),
        (
            "a loop through a label",
            reply().address(&[&b"\x01a"[..], &pointer(at)].concat(), "192.0.2.66"),
        ),
        (
            "an owner that points to a name which goes on through it",
            reply()
                .record(Section::Answer, QUESTION, 16, IN, b"\x01a\x02")
                .address(&pointer(data), "192.0.2.66"),
        ),
        (
            "a target that points to itself",
            reply().cname(QUESTION, &pointer(data)),
        ),
        (
            "a target that points ahead",
            reply().cname(QUESTION, &pointer(data + 2)),
        ),
        (
            "a target shorter than its data",
            reply().cname(QUESTION, b"\x01a\0\0"),
        ),
        (
            "a target longer than its data",
            reply().cname(QUESTION, b"\x03a"),
        ),
        ("a target that is empty", reply().cname(QUESTION, b"")),
        (
            "a dot inside a target's label",
            reply().cname(QUESTION, b"\x03a.b\x04test\0"),
        ),
        (
            "a NUL inside a target's label",
            reply().cname(QUESTION, b"\x03a\0b\x04test\0"),
        ),
        (
            "a label of a type that does not exist",
            reply().address(b"\x80a\0", "192.0.2.66"),
        ),
        (
            "a target of 256 octets",
            reply().cname(
                QUESTION,
                &[[&[63][..], &[b'x'; 63]].concat().repeat(4), vec![0]].concat()[1..],
            ),
        ),
        ("more records told than there are", reply().count(6, 1)),
        ("as many as can be told", reply().count(6, 0xffff)),
        (
            "data that goes on behind the end",
            reply().address(QUESTION, "192.0.2.66").with(at + 11, 200),
        ),
    ];
    for (what, answer) in &cases {
        bench.is_malformed(asked, answer, what);
    }
    bench.is_sound(
        asked,
        &reply().address(QUESTION, "192.0.2.1"),
        &["192.0.2.1"],
    );
}

#[test]
fn headers_that_are_no_answers_are_malformed() {
    let mut bench = Bench::new();
    let answer = Message::reply(9, "shop.test", A).address(QUESTION, "192.0.2.66");
    let cases = [
        ("no question", answer.clone().with(5, 0)),
        ("two questions", answer.clone().with(5, 2)),
        ("a notify", answer.clone().with(2, 0xa1)),
        ("a compressed question", {
            let question = [&b"\x04shop"[..], &pointer(2)].concat();
            Message::header(9, 0x8180)
                .question(&question, A, IN)
                .address(&pointer(12), "192.0.2.66")
        }),
    ];
    for (what, answer) in cases {
        bench.is_malformed("shop.test", &answer, what);
    }
}

#[test]
fn cut_anywhere_it_gives_nothing_and_is_malformed() {
    let wire = Wire::observe(ALLOW_ALL);
    let client = wire.client(SERVERS[0]);
    let of = |n: usize| format!("c{n:03}.test");
    let whole = |n: usize| {
        let asked = of(n);
        let reply = Message::reply(n as u16, &asked, A).address(QUESTION, "192.0.2.1");
        let reply = reply.cname(QUESTION, &name("a.b.test"));
        let reply = reply.address(&name("a.b.test"), "192.0.2.2");
        (asked, reply)
    };
    let (_, message) = whole(0);
    let mut malformed = 0;
    for n in 0..=message.len() {
        let (asked, message) = whole(n);
        let cut = Message(message.0[..n].to_vec());
        let query = Message::query(n as u16, &asked, A);
        assert_eq!(wire.exchange(&client, &query, &cut).unwrap(), Got::Answer);
        let seen = wire.snapshot();
        let expected: &[&str] = match n {
            n if n < message.len() => &[],
            _ => &["192.0.2.1", "192.0.2.2"],
        };
        assert_eq!(seen.leases(&asked), expected, "{n} octets");
        malformed += u64::from(n < message.len());
        assert_eq!(seen.counters.answers_malformed, malformed, "{n} octets");
    }
}

/// A socket may ask to receive several datagrams as one buffer: all but the first would go unread.
#[test]
fn several_answers_in_one_buffer_are_malformed() {
    fn option(socket: &UdpSocket, name: i32, value: i32) {
        // SAFETY: the option is an int, and is told to be one.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                name,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
    let wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let client = wire.client(SERVERS[0]);
    option(&client, libc::UDP_GRO, 1);
    client.send(&Message::query(1, "good.test", A).0).unwrap();
    client.send(&Message::query(2, "evil.test", A).0).unwrap();
    let good = Message::reply(1, "good.test", A).address(QUESTION, "192.0.2.1");
    let evil = Message::reply(2, "evil.test", A).address(QUESTION, "192.0.2.66");
    assert_eq!(good.len(), evil.len());
    let server = wire.server(SERVERS[0]);
    option(server, libc::UDP_SEGMENT, good.len() as i32);
    let both = [good.0.clone(), evil.0].concat();
    server.send_to(&both, client.local_addr().unwrap()).unwrap();
    option(server, libc::UDP_SEGMENT, 0);
    wire.mark(&client);
    assert_eq!(wire.take(&client, &both).unwrap(), Got::Nothing);
    assert_eq!(wire.counters().answers_malformed, 1);

    server
        .send_to(&good.0, client.local_addr().unwrap())
        .unwrap();
    wire.mark(&client);
    assert_eq!(wire.take(&client, &good.0).unwrap(), Got::Answer);
    assert_eq!(wire.counters().answers_malformed, 1);
}

#[test]
fn a_message_as_large_as_edns_allows_is_read() {
    let mut bench = Bench::new();
    for size in [4000, 4095, 4096, 4097] {
        let mut answer = Message::reply(9, "many.test", A);
        while answer.len() + 2 * 16 + 14 < size {
            answer = answer.record(Section::Answer, QUESTION, A, IN, &[192, 0, 2, 1]);
        }
        let rest = size - answer.len() - 16 - 12;
        answer = answer
            .record(Section::Answer, QUESTION, 16, IN, &vec![0; rest])
            .address(QUESTION, "192.0.2.9");
        assert_eq!(answer.len(), size);
        if size > 4096 {
            bench.is_malformed("many.test", &answer, "larger than we read");
        } else {
            bench.is_sound("many.test", &answer, &["192.0.2.1", "192.0.2.9"]);
        }
    }
}

/// What a server says that does not understand the query.
#[test]
fn a_bare_header_with_an_error_passes() {
    let mut bench = Bench::new();
    for rcode in [1, 4, 5] {
        bench.is_sound("shop.test", &Message::header(9, 0x8180 | rcode), &[]);
    }
    bench.is_malformed(
        "shop.test",
        &Message::header(9, 0x8180),
        "a header without an error",
    );
    let told = Message::header(9, 0x8181).count(6, 1);
    bench.is_malformed("shop.test", &told, "a header that tells of an answer");
}

/// As a library writes it (RFC 9460): clients connect to hints without another lookup.
#[test]
fn addresses_that_a_service_binding_hints_at_are_leased() {
    use hickory_proto::rr::Name as Written;
    use hickory_proto::rr::rdata::svcb::{Alpn, IpHint, SVCB, SvcParamKey, SvcParamValue};
    use hickory_proto::serialize::binary::BinEncodable as _;

    let hint = |key, value| (key, value);
    let parameters = |last: u8| {
        vec![
            hint(
                SvcParamKey::Alpn,
                SvcParamValue::Alpn(Alpn(vec!["h2".into()])),
            ),
            hint(
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![
                    std::net::Ipv4Addr::new(192, 0, 2, last).into(),
                ])),
            ),
            hint(
                SvcParamKey::Ipv6Hint,
                SvcParamValue::Ipv6Hint(IpHint(vec![
                    "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().into(),
                ])),
            ),
        ]
    };
    for (rtype, at) in [(64, 7), (65, 8)] {
        let wire = Wire::enforce("default: deny\nrules:\n  - allow: .good.test\n");
        let client = wire.client(SERVERS[0]);
        let binding = |priority, target: Written, last| {
            SVCB::new(priority, target, parameters(last))
                .to_bytes()
                .unwrap()
        };
        let own = binding(1, Written::root(), at);
        let other = binding(2, Written::from_ascii("elsewhere.test.").unwrap(), 99);
        let query = Message::query(7, "www.good.test", rtype);
        let answer = Message::reply(7, "www.good.test", rtype)
            .record(Section::Answer, QUESTION, rtype, IN, &own)
            .record(Section::Answer, QUESTION, rtype, IN, &other);
        assert_eq!(
            wire.exchange(&client, &query, &answer).unwrap(),
            Got::Answer
        );
        let seen = wire.snapshot();
        let leased = [format!("192.0.2.{at}"), "2001:db8::7".to_owned()];
        assert_eq!(seen.leases("www.good.test"), leased);
    }
}
