//! DNS packets that cannot be judged: no crash, no lease, denied in enforce, a counted gap in observe.

use std::net::Ipv4Addr;

use blackstart_core::report::Verdict;
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, Guarded, World, Zone, case};

/// Sends one datagram to port 53 and tells whether the kernel took it.
const SEND: &str = "import socket,sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(1)\n\
    try:\n  s.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 53)); print('sent')\nexcept OSError as e: print('refused')\n";

/// A header with this many questions, and a body.
fn message(questions: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, questions, 0, 0, 0, 0, 0, 0];
    message.extend(body);
    message
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn queries_that_cannot_be_judged_are_refused_in_enforce_and_a_gap_in_observe() {
    let several = case!(6);
    let odd = case!(20, "a dot or NUL within a label");
    let world = World::new("bad_queries");
    let dns = world.dns(Zone::new());
    let mut long = Vec::new();
    for _ in 0..5 {
        long.push(63);
        long.extend([b'a'; 63]);
    }
    long.extend([0, 0, 1, 0, 1]);
    let cases: &[(&str, Vec<u8>)] = &[
        ("nothing", vec![]),
        ("half a header", vec![0x12, 0x34, 0x01]),
        ("no question", message(0, &[])),
        (
            "two questions",
            message(2, b"\x01a\x00\x00\x01\x00\x01\x01b\x00\x00\x01\x00\x01"),
        ),
        (
            "a name that goes on beyond the packet",
            message(1, b"\x05gi"),
        ),
        ("no type", message(1, b"\x01a\x00")),
        (
            "a compressed question",
            message(1, b"\x01a\xc0\x0c\x00\x01\x00\x01"),
        ),
        (
            "a label type that does not exist",
            message(1, b"\x41a\x00\x00\x01\x00\x01"),
        ),
        (
            "a dot within a label",
            message(1, b"\x0agithub.com\x00\x00\x01\x00\x01"),
        ),
        (
            "a NUL within a label",
            message(1, b"\x03a\x00b\x00\x00\x01\x00\x01"),
        ),
        ("a name of more than 255 bytes", message(1, &long)),
    ];
    for (what, packet) in cases {
        let command = [
            "/usr/bin/python3",
            "-c",
            SEND,
            &dns.address().to_string(),
            &hex(packet),
        ];
        let bare = world.run(&command).succeeds().says("sent");
        let shown = match *what {
            "two questions" => Some(&several),
            "a dot within a label" | "a NUL within a label" => Some(&odd),
            _ => None,
        };
        for held in ["--no-contain", "--contain"] {
            let run = world
                .guard()
                .policy("mode: enforce\nrules:\n  - deny: github.com\n")
                .arg(held)
                .run(&command)
                .exits(0);
            assert!(
                run.ended.stdout.contains("refused"),
                "{what} should have been refused"
            );
            if let Some(shown) = shown {
                shown.outside(&bare).is(Becomes::Refused, run.held());
            }
        }
        let run = world.guard().run(&command).exits(0);
        assert!(
            run.ended.stdout.contains("sent"),
            "{what} should have passed under observe"
        );
        assert!(
            gap_counts(&run) >= 1,
            "{what} should be a counted gap: {:?}",
            run.report().coverage
        );
    }
}

#[test]
fn answers_that_cannot_be_trusted_give_no_lease() {
    let world = World::new("bad_answers");
    let web = world.node("web");
    web.tcp_echo(7);
    let server = world.bare_dns_node();
    let address = web.v4();
    // The client takes the address from the test, not from the answer: whatever a sloppy resolver makes of it.
    server.udp(53, move |query| answer(query, address));
    let code = "import socket,sys\n\
        name = sys.argv[2]\n\
        q = bytes.fromhex('abcd01000001000000000000') + b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + bytes([0, 0, 1, 0, 1])\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5); s.connect((sys.argv[1], 53)); s.send(q)\n\
        try: s.recv(65535)\n\
        except OSError: pass\n\
        try: socket.create_connection((sys.argv[3], 7), 2).close(); print('reached')\n\
        except OSError: print('refused')\n";
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: .example\n";
    let ask = |name: &str| {
        world
            .guard()
            .policy(policy)
            .run(&[
                "/usr/bin/python3",
                "-c",
                code,
                &server.v4().to_string(),
                name,
                &address.to_string(),
            ])
            .exits(0)
    };
    assert!(
        ask("good.example").ended.stdout.contains("reached"),
        "the sound answer must lease, or this test shows nothing"
    );
    for kind in [
        "truncated",
        "short-rdata",
        "other-id",
        "other-question",
        "other-owner",
        "not-an-answer",
        "pointer-loop",
        "pointer-out",
        "additional",
        "count",
        "oversized-count",
        "class",
    ] {
        let run = ask(&format!("{kind}.example"));
        assert!(
            run.ended.stdout.contains("refused"),
            "{kind} must not lease: {:#?}",
            run.report().names
        );
        assert_eq!(run.flow(address, 7).verdict, Verdict::Deny, "{kind}");
    }
}

/// The answer that the first label of the question asks for.
fn answer(query: &[u8], address: Ipv4Addr) -> Vec<Vec<u8>> {
    let Some(question) = query.get(12..) else {
        return Vec::new();
    };
    let kind = String::from_utf8_lossy(&question[1..=usize::from(question[0])]).into_owned();
    let mut id = [query[0], query[1]];
    let mut flags = [0x81, 0x80];
    let mut counts = [0, 1, 0, 1, 0, 0, 0, 0];
    let mut question = question.to_vec();
    let mut owner = vec![0xc0, 0x0c];
    let mut class = [0, 1];
    let mut length = [0, 4];
    let mut data = address.octets().to_vec();
    match kind.as_str() {
        "good" => {}
        "truncated" => data.truncate(2),
        "short-rdata" => length = [0, 3],
        "other-id" => id[0] ^= 0xff,
        "other-question" => question[1] = b'z',
        "other-owner" => owner = b"\x05other\x07example\x00".to_vec(),
        "not-an-answer" => flags[0] &= 0x7f,
        // Its own place, just after the question.
        "pointer-loop" => {
            owner = vec![
                0xc0,
                u8::try_from(12 + question.len()).expect("short questions"),
            ]
        }
        "pointer-out" => owner = vec![0xff, 0xff],
        "additional" => counts = [0, 1, 0, 0, 0, 0, 0, 1],
        "count" => counts = [0, 1, 0, 0, 0, 0, 0, 0],
        // More records are announced than there are: none of them is to be believed.
        "oversized-count" => {
            counts = [0, 1, 0xff, 0xff, 0, 0, 0, 0];
            data.truncate(1);
        }
        "class" => class = [0, 3],
        other => panic!("no such answer: {other}"),
    }
    let mut message = id.to_vec();
    message.extend(flags);
    message.extend(counts);
    message.extend(question);
    message.extend(owner);
    message.extend([0, 1]);
    message.extend(class);
    message.extend([0, 0, 1, 0]);
    message.extend(length);
    message.extend(data);
    vec![message]
}

fn gap_counts(run: &Guarded) -> u64 {
    run.report()
        .coverage
        .gaps
        .iter()
        .filter(|gap| gap.kind.contains("dns") || gap.kind.contains("malformed"))
        .map(|gap| gap.count)
        .sum()
}
