//! Where one address serves several names: what a connection says of itself (TLS, HTTP, a proxy's request) is judged.

use std::time::Duration;

use blackstart_core::report::{Attribution, Outcome, Verdict};
use blackstart_lab::{World, Zone};

/// "At once": a generous bound for a loaded test machine, far below any patience of TCP's.
const AT_ONCE: Duration = Duration::from_secs(4);

const DENY: &str = "mode: enforce\nrules:\n  - deny: .github.com\n";

#[test]
fn a_denied_name_on_an_allowed_address_is_refused_at_once() {
    let world = World::new("claims_tls");
    let cdn = world.node("cdn");
    let authority = world.authority();
    let web = cdn.https(&authority, &["docs.example", "github.com"]);
    world.dns(Zone::new().host("docs.example", &cdn));
    let at = |name: &str| format!("{name}:443:{}", cdn.v4());
    // Outside the one name is as good as the other.
    let denied = [
        "curl",
        "-sS",
        "--resolve",
        &at("github.com"),
        "https://github.com/",
    ];
    world.run(&denied).succeeds();
    let before = web.seen().len();
    let run = world
        .guard()
        .policy(DENY)
        .run(&denied)
        .exits(35)
        .within(AT_ONCE);
    assert_eq!(web.seen().len(), before, "nothing came through");
    let flow = run.flow(cdn.v4(), 443);
    assert_eq!(
        (flow.verdict, flow.name.as_deref(), flow.rule.as_str()),
        (Verdict::Deny, Some("github.com"), "deny .github.com")
    );
    assert_eq!((flow.attempts, flow.outcome), (1, Outcome::Refused));
    assert_eq!(run.subject(flow.subject).argv[0], "curl");
    assert!(run.gaps().is_empty(), "{:?}", run.gaps());
    // The other name on the same address, in the same run.
    let both = format!(
        "curl -sS4 https://docs.example/ && ! curl -sS --resolve {} https://github.com/",
        at("github.com")
    );
    let run = world
        .guard()
        .policy(DENY)
        .run(&["sh", "-c", &both])
        .exits(0)
        .says("hello from cdn");
    let mut flows: Vec<_> = run
        .flows(cdn.v4())
        .into_iter()
        .filter(|flow| flow.protocol == "tcp")
        .map(|flow| (flow.name.as_deref(), flow.verdict, flow.attempts))
        .collect();
    flows.sort_by_key(|(name, ..)| name.map(str::to_owned));
    assert_eq!(
        flows,
        [
            (Some("docs.example"), Verdict::Allow, 1),
            (Some("github.com"), Verdict::Deny, 1)
        ]
    );
    // For the record only, it passes.
    let run = world
        .guard()
        .policy("mode: observe\nrules:\n  - deny: .github.com\n")
        .run(&denied)
        .exits(0);
    let flow = run.flow(cdn.v4(), 443);
    assert_eq!(
        (flow.verdict, flow.outcome, flow.attribution),
        (Verdict::WouldDeny, Outcome::Connected, Attribution::Exact)
    );
    // Nothing is read that nobody wants to know.
    let run = world
        .guard()
        .policy("mode: enforce\ninspect: []\nrules:\n  - deny: .github.com\n")
        .run(&denied)
        .exits(0);
    assert_eq!(run.flow(cdn.v4(), 443).name, None);
}
