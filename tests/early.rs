//! What a connection sends before it can be refused: with its first packet, while the handshake is under way, or by a way that nobody
//! reads.

use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::client::claim;
use blackstart_lab::{World, Zone, case};

/// "At once": a generous bound for a loaded test machine, far below any patience of TCP's.
const AT_ONCE: Duration = Duration::from_secs(4);

/// How long a client may wait that sends what is lost, in seconds: less than TCP would by itself, which is eight for what is lost on
/// this host and two minutes for a first packet.
const SOON: &str = "7";

/// A client that is ended if it waits longer.
fn soon<S: AsRef<str>>(command: &[S]) -> Vec<String> {
    let words = command.iter().map(|word| word.as_ref().to_owned());
    ["timeout", SOON]
        .map(str::to_owned)
        .into_iter()
        .chain(words)
        .collect()
}

const DENY: &str = "mode: enforce\nrules:\n  - deny: .github.com\n";

#[test]
fn what_is_sent_on_ways_that_are_not_seen_is_a_counted_gap() {
    let said = case!(34, "the names that such a connection gives");
    let where_to = case!(34, "where such a connection goes");
    let world = World::new("claims_unseen");
    let cdn = world.node("cdn");
    cdn.http();
    world.dns(Zone::new());
    let way = "mptcp";
    let command = claim(way, cdn.v4(), 80, &["api.github.com"]);
    let bare = world.run(&command).says("hello from cdn");
    said.outside(&bare);
    where_to.outside(&bare);
    let run = world
        .guard()
        .policy(DENY)
        .run(&command)
        .exits(0)
        .says("hello from cdn");
    assert!(
        run.gaps().contains("claims_unseen"),
        "{way}: {:?}",
        run.gaps()
    );
    said.gap(&run, "claims_unseen");
    // Where it goes was judged as any connection is.
    let address = format!(
        "mode: enforce\ninspect: [80]\nrules:\n  - deny: {}\n",
        cdn.v4()
    );
    let run = world
        .guard()
        .policy(&address)
        .run(&command)
        .exits(1)
        .says("ECONNREFUSED")
        .within(AT_ONCE);
    assert_eq!(run.flow(cdn.v4(), 80).verdict, Verdict::Deny, "{way}");
    where_to.refused(&run);
}

/// How many first packets that had data were taken so.
fn taken(world: &World) -> u32 {
    let said = world.run(&["nstat", "-asz", "TcpExtTCPFastOpenActive"]);
    let words: Vec<_> = said.stdout.split_whitespace().collect();
    let at = (words.iter()).position(|word| *word == "TcpExtTCPFastOpenActive");
    words[at.unwrap() + 1].parse().unwrap()
}

/// With a cookie the request goes with the first packet, before there is a connection. What `connect()` would be refused
/// is refused there too.
#[test]
fn a_fast_open_with_a_cookie_goes_where_connect_would() {
    let shown = case!(34, "where a connection goes whose first packet has data");
    let said = case!(
        34,
        "the name in HTTP, in a first packet that has data at once"
    );
    let world = World::new("claims_cookie");
    let cdn = world.node("cdn");
    cdn.http_fast_open(80);
    world.dns(Zone::new());
    // Cookies are kept by the whole network namespace: one is there after the first time.
    let say = claim("fastopen", cdn.v4(), 80, &["docs.example"]);
    world.run(&say).succeeds().says("hello from cdn");
    let taken = || taken(&world);
    let before = taken();
    let bare = world.run(&say).says("hello from cdn");
    shown.outside(&bare);
    said.outside(&bare);
    assert_eq!(taken(), before + 1, "data went with the first packet");
    for held in ["--no-contain", "--contain"] {
        let policy = format!("mode: enforce\nrules:\n  - deny: {}\n", cdn.v4());
        let run = world
            .guard()
            .policy(&policy)
            .arg(held)
            .run(&say)
            .exits(1)
            .says("ECONNREFUSED")
            .within(AT_ONCE);
        assert_eq!(run.flow(cdn.v4(), 80).verdict, Verdict::Deny);
        shown.refused(&run);
    }
    assert_eq!(taken(), before + 1, "nothing went");
    // What the first packet says is read there too; the packet is lost, and the connection given up soon.
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: docs.example\n")
        .run(&soon(&say))
        .exits(1)
        .says("ETIMEDOUT");
    let flow = run.flow(cdn.v4(), 80);
    assert_eq!(
        (flow.verdict, flow.name.as_deref()),
        (Verdict::Deny, Some("docs.example"))
    );
    said.refused(&run);
    let at = format!("docs.example:80:{}", cdn.v4());
    let curl = [
        "curl",
        "-sS",
        "--tcp-fastopen",
        "--resolve",
        &at,
        "http://docs.example/",
    ];
    world.run(&curl).says("hello from cdn");
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: docs.example\n")
        .run(&soon(&curl));
    assert!((1..120).contains(&run.ended.code), "{run:?}");
    assert_eq!(run.flow(cdn.v4(), 80).verdict, Verdict::Deny);
    // A name that no rule mentions gets through, whichever packet it is in.
    world
        .guard()
        .policy(DENY)
        .run(&say)
        .exits(0)
        .says("hello from cdn");
}

/// By the call that connects, or while the handshake is under way: nobody can be told at once, but nothing arrives.
#[test]
fn what_is_sent_before_it_can_be_refused_is_lost_where_it_is_denied() {
    let names = [
        case!(34, "the name in HTTP, in the first packet"),
        case!(
            28,
            "the name in HTTP, written before the connection was made"
        ),
    ];
    let world = World::new("claims_early");
    let cdn = world.node("cdn");
    let web = cdn.http();
    world.dns(Zone::new());
    for (way, shown) in ["fastopen", "late"].into_iter().zip(&names) {
        let command = |name| claim(way, cdn.v4(), 80, &[name]);
        let say = command("api.github.com");
        shown.outside(&world.run(&say).says("hello from cdn"));
        let before = web.seen().len();
        let run = world.guard().policy(DENY).run(&soon(&say)).exits(1);
        // The second is what the kernel has kept of not being able to send, the third what is heard where the
        // connection was made too soon.
        let said = run.ended.stdout.trim();
        let heard = ["ETIMEDOUT", "EAGAIN", "EACCES"].contains(&said);
        assert!(
            heard && (said != "EACCES" || way == "late"),
            "{way}: {run:?}"
        );
        assert_eq!(web.seen().len(), before, "{way}: nothing came through");
        let flow = run.flow(cdn.v4(), 80);
        assert_eq!(
            (flow.verdict, flow.name.as_deref()),
            (Verdict::Deny, Some("api.github.com")),
            "{way}"
        );
        assert!(run.gaps().is_empty(), "{way}: {:?}", run.gaps());
        shown.refused(&run);
        let run = world
            .guard()
            .policy(DENY)
            .run(&command("docs.example"))
            .exits(0)
            .says("hello from cdn");
        assert!(run.gaps().is_empty(), "{way}: {:?}", run.gaps());
    }
}

/// The same with the hello of TLS, which is all that such a connection says of itself.
#[test]
fn a_hello_in_a_first_packet_is_read_there() {
    let with_cookie = case!(
        34,
        "the name in TLS, in a first packet that has data at once"
    );
    let without = case!(34, "the name in TLS, in the first packet");
    let world = World::new("claims_hello");
    let cdn = world.node("cdn");
    // Documentation/networking/ip-sysctl: 1 and 2, for clients and servers, and 0x400, for servers that do not ask for it.
    cdn.inside(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027"))
        .unwrap();
    let web = cdn.https(&world.authority(), &["docs.example", "api.github.com"]);
    world.dns(Zone::new());
    let hello = |name| claim("fastopen-tls", cdn.v4(), 443, &[name]);
    let at = |name: &str| format!("{name}:443:{}", cdn.v4());
    let curl = |name: &str| {
        let url = format!("https://{name}/");
        let line = [
            "curl",
            "-sS",
            "--tcp-fastopen",
            "--resolve",
            &at(name),
            &url,
        ];
        line.map(str::to_owned).to_vec()
    };
    // Forgets the cookie.
    let forget = || world.run(&["ip", "tcp_metrics", "flush", "all"]).succeeds();
    for command in [&hello as &dyn Fn(&'static str) -> Vec<String>, &|name| {
        curl(name)
    }] {
        let (denied, passed) = (command("api.github.com"), command("docs.example"));
        forget();
        let before = taken(&world);
        without.outside(&world.run(&denied).says("hello from cdn"));
        assert_eq!(taken(&world), before, "there was no cookie yet");
        with_cookie.outside(&world.run(&denied).says("hello from cdn"));
        assert_eq!(
            taken(&world),
            before + 1,
            "the hello went with the first packet"
        );
        for held in ["--no-contain", "--contain"] {
            let guard = || world.guard().policy(DENY).arg(held);
            for shown in [&with_cookie, &without] {
                if std::ptr::eq(shown, &without) {
                    forget();
                }
                let (before, seen) = (taken(&world), web.seen().len());
                let run = guard().run(&soon(&denied));
                // The client is ended by its own patience or by TCP's, not by ours.
                assert!((1..120).contains(&run.ended.code), "{run:?}");
                assert_eq!(
                    (taken(&world), web.seen().len()),
                    (before, seen),
                    "nothing arrived"
                );
                let flow = run.flow(cdn.v4(), 443);
                assert_eq!(
                    (
                        flow.verdict,
                        flow.name.as_deref(),
                        flow.rule.as_str(),
                        flow.attempts
                    ),
                    (Verdict::Deny, Some("api.github.com"), "deny .github.com", 1)
                );
                assert!(run.gaps().is_empty(), "{:?}", run.gaps());
                shown.refused(&run);
            }
            // Another name gets through, without a cookie and with the one that this brings.
            forget();
            for had in [0, 1] {
                let before = taken(&world);
                let run = guard().run(&passed).exits(0).says("hello from cdn");
                assert_eq!(taken(&world), before + had);
                let flow = run.flow(cdn.v4(), 443);
                assert_eq!(
                    (flow.verdict, flow.name.as_deref()),
                    (Verdict::Allow, Some("docs.example"))
                );
                assert!(run.gaps().is_empty(), "{:?}", run.gaps());
            }
        }
    }
}
