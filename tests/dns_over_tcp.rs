//! Lookups over TCP: read, judged and leased as those in datagrams are.

use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::{World, Zone};

/// "At once": a generous bound for a loaded test machine, far below any resolver's patience.
const AT_ONCE: Duration = Duration::from_secs(4);

const LIVE: &str = "mode: enforce\nrules:\n  - deny: .github.com\n";
const REHEARSAL: &str = "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n";

#[test]
fn dig_over_tcp_is_answered_and_refused_as_over_udp() {
    let world = World::new("tcp_dig");
    let (github, mirror) = (world.node("github"), world.node("mirror"));
    let dns = world.dns(
        Zone::new()
            .host("github.com", &github)
            .host("mirror.internal", &mirror),
    );
    for policy in [LIVE, REHEARSAL] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["dig", "+tcp", "A", "mirror.internal"])
            .exits(0)
            .says(&mirror.v4().to_string())
            .within(AT_ONCE);
        assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
        let flow = run.flow(dns.address(), 53);
        assert_eq!(
            (flow.protocol.as_str(), flow.verdict),
            ("tcp", Verdict::Allow)
        );
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        let run = world
            .guard()
            .policy(policy)
            .run(&["dig", "+tcp", "A", "github.com"])
            .exits(0)
            .says("status: NXDOMAIN")
            .says("EDE: 15")
            .within(AT_ONCE);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    }
    assert!(!dns.was_asked("github.com"));
    world
        .run(&["dig", "+tcp", "+short", "A", "github.com"])
        .succeeds()
        .says(&github.v4().to_string());
}
