//! What a proxy is asked for is a destination of its own.

use std::time::Duration;

use blackstart_core::report::{Flow, Verdict};
use blackstart_lab::client::{asks, claim};
use blackstart_lab::{Guarded, Node, World, Zone, case};

/// "At once": a generous bound for a loaded test machine, far below any patience of TCP's.
const AT_ONCE: Duration = Duration::from_secs(4);

const DENY: &str = "mode: enforce\nrules:\n  - deny: .github.com\n";

/// A real proxy on this machine, at a port that is inspected as a rule; all it does goes to its log.
fn proxy(node: &Node, world: &World) -> u16 {
    let settings = "Port 8080\nTimeout 30\nMaxClients 20\nLogLevel Error\nConnectPort 443\nDisableViaHeader Yes\n";
    let file = world.file(&format!("tinyproxy-{}.conf", node.name()), settings);
    node.serve(
        8080,
        &["tinyproxy", "-d", "-c", &file.display().to_string()],
    );
    8080
}

#[test]
fn what_a_proxy_is_asked_for_is_judged_and_recorded_as_a_destination_of_its_own() {
    let shown = case!(37);
    let world = World::new("claims_proxy");
    let (web, relay) = (world.node("web"), world.node("relay"));
    let authority = world.authority();
    web.http();
    web.https(&authority, &["docs.example", "github.com"]);
    world.dns(
        Zone::new()
            .host("docs.example", &web)
            .host("github.com", &web)
            .host("relay.internal", &relay),
    );
    for (node, at) in [(&relay, "relay.internal"), (world.host(), "127.0.0.1")] {
        let port = proxy(node, &world);
        for scheme in ["https", "http"] {
            let fetch = |name: &str| {
                vec![
                    "curl".to_owned(),
                    "-sS".to_owned(),
                    "--proxy".to_owned(),
                    format!("http://{at}:{port}"),
                    format!("{scheme}://{name}/"),
                ]
            };
            shown.outside(&world.run(&fetch("github.com")).says("hello from web"));
            let run = world
                .guard()
                .policy(DENY)
                .run(&fetch("github.com"))
                .within(AT_ONCE);
            assert!((1..120).contains(&run.ended.code), "{:?}", run.ended);
            let asked = asked_for(&run, "github.com");
            assert_eq!(
                (asked.verdict, asked.rule.as_str(), asked.attempts),
                (Verdict::Deny, "deny .github.com", 1),
                "{scheme} by {at}"
            );
            shown.refused(&run);
            assert_eq!(asked.port, if scheme == "http" { 80 } else { 443 });
            let run = world
                .guard()
                .policy(DENY)
                .run(&fetch("docs.example"))
                .exits(0)
                .says("hello from web");
            let asked = asked_for(&run, "docs.example");
            assert_eq!((asked.verdict, asked.attempts), (Verdict::Allow, 1));
            assert_eq!(run.subject(asked.subject).argv[0], "curl");
            assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        }
    }
    // An address instead of a name; and the proxy that the environment names.
    let by_address = format!("mode: enforce\nrules:\n  - deny: {}:443\n", web.v4());
    let raw = ["curl", "-sSk", &format!("https://{}/", web.v4())];
    let run = world
        .guard()
        .policy(&by_address)
        .env("https_proxy", "http://relay.internal:8080")
        .run(&raw)
        .within(AT_ONCE);
    assert!((1..120).contains(&run.ended.code), "{:?}", run.ended);
    assert_eq!(run.flow(web.v4(), 443).verdict, Verdict::Deny);
    // By an allow-list the proxy's own name permits nothing behind it.
    let listed = |name: &str| {
        format!(
            "mode: enforce\ndefault: deny\nrules:\n  - allow: relay.internal:8080\n  - allow: {name}\n"
        )
    };
    let fetch = [
        "curl",
        "-sS",
        "--proxy",
        "http://relay.internal:8080",
        "https://docs.example/",
    ];
    world
        .guard()
        .policy(&listed("docs.example"))
        .run(&fetch)
        .exits(0);
    let run = world.guard().policy(&listed("other.example")).run(&fetch);
    assert_ne!(run.ended.code, 0);
    assert_eq!(asked_for(&run, "docs.example").verdict, Verdict::Deny);
    // Several requests on one connection, written at once.
    let several = |names: &[&str]| claim("proxied", relay.v4(), 8080, names);
    world
        .guard()
        .policy(DENY)
        .run(&several(&["docs.example"]))
        .exits(0);
    let run = world
        .guard()
        .policy(DENY)
        .run(&several(&["docs.example", "github.com"]))
        .within(AT_ONCE)
        .exits(1)
        .says("ETIMEDOUT");
    assert_eq!(asked_for(&run, "docs.example").verdict, Verdict::Allow);
    assert_eq!(asked_for(&run, "github.com").verdict, Verdict::Deny);
    // In a tunnel to an allowed name another one is asked for.
    let tunnel = |inside: &str| claim("tunnel", relay.v4(), 8080, &["docs.example", inside]);
    world.run(&tunnel("github.com")).succeeds();
    world
        .guard()
        .policy(DENY)
        .run(&tunnel("docs.example"))
        .exits(0)
        .says("hello from web");
    let run = world
        .guard()
        .policy(DENY)
        .run(&tunnel("github.com"))
        .within(AT_ONCE)
        .exits(1)
        .says("ETIMEDOUT");
    assert_eq!(asked_for(&run, "github.com").verdict, Verdict::Deny);
}

#[test]
fn under_default_deny_nothing_is_asked_of_a_proxy_unread() {
    let world = World::new("claims_proxy_deny");
    let relay = world.node("relay");
    // What it would do with it is of no interest here: it echoes.
    relay.tcp_echo(8080);
    world.dns(Zone::new().a("relay.internal", relay.v4()));
    let ask = |heads: &[&str]| asks("relay.internal", 8080, heads);
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: relay.internal:8080\n  - allow: docs.example\n";
    let own = "GET / HTTP/1.1\\r\\nHost: relay.internal:8080\\r\\n\\r\\n";
    let connect = |to: &str| format!("CONNECT {to} HTTP/1.1\\r\\nHost: {to}\\r\\n\\r\\n");
    let zeros = "0".repeat(400);
    let hidden = format!(
        "GET http://docs.example:{zeros}80@github.com/ HTTP/1.1\\r\\nHost: docs.example\\r\\n\\r\\n"
    );
    // Its own pages first, then what is not allowed; and what is local for the proxy is not so for us.
    for (asked, told) in [
        (connect("docs.example:443"), "answered\nanswered\n"),
        (connect("github.com:443"), "answered\nETIMEDOUT\n"),
        (connect("127.0.0.1:22"), "answered\nETIMEDOUT\n"),
    ] {
        let line = ask(&[own, &asked]);
        world.run(&line).succeeds().says("answered\nanswered\n");
        world.guard().policy(policy).run(&line).exits(0).says(told);
    }
    // The user's part of a target is no host, however long it is: such a head is told to be unread.
    let run = world.guard().policy(policy).run(&ask(&[&hidden])).exits(0);
    assert!(run.gaps().contains("claims_unread"), "{:?}", run.gaps());
}

/// The one flow to a name that a proxy was asked for: nobody here knows its address.
fn asked_for<'r>(run: &'r Guarded, name: &str) -> &'r Flow {
    let mut found: Vec<_> = run
        .report()
        .flows
        .iter()
        .filter(|flow| flow.name.as_deref() == Some(name) && flow.address.is_unspecified())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(flow), true) => flow,
        _ => panic!("one flow to {name} expected in {:#?}", run.report().flows),
    }
}
